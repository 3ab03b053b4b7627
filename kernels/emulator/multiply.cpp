// The arithmetic of mma and wgmma: widening of elements, and products in f32 along the summed axis in order.
#include "emulator/multiply.h"

#include <cstring>

namespace infonce::emulator {
namespace {

// Eight elements; GCC and Clang compile operations on them to SIMD instructions.
typedef float Eight __attribute__((vector_size(32)));

// Also for AVX2, where the loader can choose (x86-64 with glibc). The sums are the same.
#if defined(__x86_64__) && defined(__GLIBC__)
#define INFONCE_VECTORS __attribute__((target_clones("avx2", "default")))
#else
#define INFONCE_VECTORS
#endif

float as_float(uint32_t bits) {
    float number;
    std::memcpy(&number, &bits, 4);
    return number;
}

float wide_f16(uint32_t half) {
    // The exponent bias of f32 is larger by 112. A product by 2^112 adds it for subnormals too.
    const float size = as_float((half & 0x7fffu) << 13) * 0x1p112f;
    uint32_t bits;
    std::memcpy(&bits, &size, 4);
    bits |= (half & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
    return as_float(bits | (half & 0x8000u) << 16);
}

float wide_e4m3(uint32_t byte) {
    if ((byte & 0x7fu) == 0x7fu) return as_float(0x7fc00000u);
    // As above: the bias is larger by 120.
    const float size = as_float((byte & 0x7fu) << 20) * 0x1p120f;
    return byte & 0x80u ? -size : size;
}

// The elements of a register: one of tf32, two of 16 bits.
template <ElementType TYPE>
void unpack(uint32_t bits, float* to, size_t stride) {
    if constexpr (TYPE == ElementType::TF32) {
        to[0] = as_float(bits & 0xffffe000u);
    } else if constexpr (TYPE == ElementType::BF16) {
        to[0] = as_float(bits << 16);
        to[stride] = as_float(bits & 0xffff0000u);
    } else {
        to[0] = wide_f16(bits & 0xffffu);
        to[stride] = wide_f16(bits >> 16);
    }
}

template <ElementType TYPE>
void multiply(const LaneArguments* const (&lanes)[WARP]) {
    constexpr int HALF = TYPE == ElementType::TF32 ? 4 : 8, DEPTH = 2 * HALF;
    constexpr int EACH = TYPE == ElementType::TF32 ? 1 : 2;
    float a[16][DEPTH];
    float b[DEPTH][8], d[16][8];
    for (int lane = 0; lane < int(WARP); ++lane) {
        const LaneArguments& own = *lanes[lane];
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; ++i) unpack<TYPE>(own.a[i], &a[g + i % 2 * 8][EACH * t + i / 2 * HALF], 1);
        for (int i = 0; i < 2; ++i) unpack<TYPE>(own.b[i], &b[EACH * t + i * HALF][g], 8);
    }
    for (int row = 0; row < 16; row += 8) multiply_8x8(a[row], DEPTH, b[0], 8, DEPTH, d[row], 8);
    for (int lane = 0; lane < int(WARP); ++lane) {
        float* own = lanes[lane]->d;
        for (int i = 0; i < 4; ++i) own[i] += d[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
    }
}

}  // namespace

void widen(ElementType type, const void* from, uint32_t bytes, float* to, uint32_t stride) {
    if (type == ElementType::E4M3) {
        const auto* number = static_cast<const uint8_t*>(from);
        for (uint32_t i = 0; i < bytes; ++i) to[i * stride] = wide_e4m3(number[i]);
        return;
    }
    uint16_t number[8];
    std::memcpy(number, from, bytes);
    if (type == ElementType::F16)
        for (uint32_t i = 0; i < bytes / 2; ++i) to[i * stride] = wide_f16(number[i]);
    else
        for (uint32_t i = 0; i < bytes / 2; ++i) to[i * stride] = as_float(uint32_t(number[i]) << 16);
}

INFONCE_VECTORS
void multiply_8x8(const float* a, uint32_t a_stride, const float* b, uint32_t b_stride, uint32_t depth, float* d, uint32_t d_stride) {
    Eight sums[8] = {};
    for (uint32_t k = 0; k < depth; ++k) {
        Eight numbers;
        std::memcpy(&numbers, b + k * b_stride, sizeof numbers);
#pragma GCC unroll 8
        for (int row = 0; row < 8; ++row) sums[row] += a[row * a_stride + k] * numbers;
    }
#pragma GCC unroll 8
    for (int row = 0; row < 8; ++row) std::memcpy(d + row * d_stride, &sums[row], sizeof sums[row]);
}

void multiply(const LaneArguments* const (&lanes)[WARP]) {
    switch (ElementType(lanes[0]->selector)) {
        case ElementType::BF16: return multiply<ElementType::BF16>(lanes);
        case ElementType::F16: return multiply<ElementType::F16>(lanes);
        case ElementType::TF32: return multiply<ElementType::TF32>(lanes);
        case ElementType::E4M3: return;  // ptx/mma.h has none
    }
}

}  // namespace infonce::emulator
