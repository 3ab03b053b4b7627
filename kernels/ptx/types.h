// Numbers of 16 bits and vectors, as bits: no toolkit header is needed for them.
#pragma once

#include <cstdint>

namespace infonce {

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
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
