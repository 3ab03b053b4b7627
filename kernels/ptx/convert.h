// Conversions between f32 and the tensor cores' types: to nearest, ties to even (tf32: ties away from zero).
// pack_… puts `low` into the lower bits of the result.
#pragma once

#include "ptx/kernel.h"
#include "ptx/math.h"
#include "ptx/types.h"

namespace infonce {

INFONCE_DEVICE float to_float(bf16 x) { return bits_float(uint32_t(x.bits) << 16); }

#ifdef __CUDACC__

INFONCE_DEVICE uint32_t pack_bf16(float low, float high) {
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}
INFONCE_DEVICE uint32_t pack_f16(float low, float high) {
    uint32_t packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}
INFONCE_DEVICE uint32_t to_tf32(float x) {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
}
INFONCE_DEVICE float to_float(f16 x) {
    float number;
    asm("cvt.f32.f16 %0, %1;" : "=f"(number) : "h"(x.bits));
    return number;
}

#else

inline uint32_t round_bf16(float x) {
    const uint32_t bits = float_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}
inline uint32_t pack_bf16(float low, float high) { return round_bf16(low) | round_bf16(high) << 16; }

inline uint32_t round_f16(float x) {
    const uint32_t bits = float_bits(x), sign = bits >> 16 & 0x8000u;
    const float size = bits_float(bits & 0x7fffffffu);
    if (size != size) return 0x7fff;
    if (size >= 65520.0f) return sign | 0x7c00u;
    if (size < 6.103515625e-5f) {
        // Subnormal: a multiple of 2^-24; adding and subtracting rounds to it.
        return sign | uint32_t((size + 0.5f - 0.5f) * 16777216.0f);
    }
    const uint32_t rounded = float_bits(size) + 0xfffu + (float_bits(size) >> 13 & 1);
    return sign | ((rounded >> 13) - (112u << 10));
}
inline uint32_t pack_f16(float low, float high) { return round_f16(low) | round_f16(high) << 16; }

inline uint32_t to_tf32(float x) {
    const uint32_t bits = float_bits(x);
    if ((bits & 0x7f800000u) == 0x7f800000u) return bits;
    return (bits + 0x1000u) & 0xffffe000u;
}
inline float to_float(f16 x) {
    const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
    if (rest >= 0x7c00u) return bits_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    if (rest < 0x400u) return bits_float(sign | float_bits(float(rest) / 16777216.0f));
    return bits_float(sign | ((rest << 13) + (112u << 23)));
}

#endif

// Two e4m3 in 16 bits. Values beyond ±448 and infinities saturate to ±448; NaN stays NaN.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
INFONCE_DEVICE uint32_t pack_e4m3(float low, float high) {
    uint16_t packed;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
    return packed;
}
#else
// The same bits without the instruction.
INFONCE_DEVICE uint32_t round_e4m3(float x) {
    const uint32_t bits = float_bits(x), sign = bits >> 24 & 0x80u, size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return 0x7f;
    if (size >= 0x43e00000u) return sign | 0x7eu;  // 448
    // Below 2^-6 subnormal: a multiple of 2^-9, which is the spacing of f32 at 2^14.
    if (size < 0x3c800000u) return sign | (float_bits(bits_float(size) + 16384.0f) - float_bits(16384.0f));
    return sign | (((size + 0x7ffffu + (size >> 20 & 1)) >> 20) - (120u << 3));
}
INFONCE_DEVICE uint32_t pack_e4m3(float low, float high) { return round_e4m3(low) | round_e4m3(high) << 8; }
#endif

INFONCE_DEVICE bf16 to_bf16(float x) { return {uint16_t(pack_bf16(x, 0.0f))}; }
INFONCE_DEVICE f16 to_f16(float x) { return {uint16_t(pack_f16(x, 0.0f))}; }

}  // namespace infonce
