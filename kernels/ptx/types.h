// The element types bf16, f16, e4m3 and tf32, and vectors of 8 and 16 bytes, as bits: no toolkit header is needed.
#pragma once

#include <cstdint>

namespace infonce {

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};
// 4 bits of exponent, 3 of fraction: the least positive value is 2^-9, the largest 448. No infinity; NaN is all ones,
// with either sign (Micikevicius et al., FP8 Formats for Deep Learning, 2022, table 1).
struct e4m3 {
    uint8_t bits;
};
// f32 in memory; its products are tf32's, with 10 bits of fraction.
struct tf32 {
    uint32_t bits;
};
struct alignas(8) Vector8 {
    uint32_t x[2];
};
struct alignas(16) Vector16 {
    uint32_t x[4];
};

// The unsigned type of a size: loads and stores move any type by its bits.
template <int BYTES>
struct Bits;
template <>
struct Bits<1> {
    using Type = uint8_t;
};
template <>
struct Bits<2> {
    using Type = uint16_t;
};
template <>
struct Bits<4> {
    using Type = uint32_t;
};
template <>
struct Bits<8> {
    using Type = uint64_t;
};

}  // namespace infonce
