// Numbers of 8 and 16 bits and vectors, as bits: no toolkit header is needed for them.
#pragma once

#include <cstdint>

namespace infonce {

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};
// 4 bits of exponent, 3 of fraction: the least is 2^-9, the largest 448. There is no infinity, and one NaN
// of either sign, all ones (Micikevicius et al., FP8 Formats for Deep Learning, 2022, table 1).
struct e4m3 {
    uint8_t bits;
};
// f32 in memory; its products are those of tf32, with 10 bits of fraction.
struct tf32 {
    uint32_t bits;
};
struct alignas(8) Vector8 {
    uint32_t x[2];
};
struct alignas(16) Vector16 {
    uint32_t x[4];
};

// The unsigned type of a size, for loads and stores of any type by their bits.
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
