// Elementary f32 functions. `_fast`: the hardware's approximations, relative error about 2^-22. `_exact`: accurate to a
// few units in the last place.
#pragma once

#include "ptx/kernel.h"

#ifndef __CUDACC__
#include <cmath>
#include <cstring>
#endif

namespace infonce {

#ifdef __CUDACC__

INFONCE_DEVICE uint32_t float_bits(float x) { return __float_as_uint(x); }
INFONCE_DEVICE float bits_float(uint32_t x) { return __uint_as_float(x); }
INFONCE_DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// Of numbers from 2^-126 to 2^126.
INFONCE_DEVICE float reciprocal_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
INFONCE_DEVICE float exp_exact(float x) { return expf(x); }
INFONCE_DEVICE float expm1_exact(float x) { return expm1f(x); }
INFONCE_DEVICE float log_exact(float x) { return logf(x); }
INFONCE_DEVICE float log1p_exact(float x) { return log1pf(x); }
INFONCE_DEVICE float log2_exact(float x) { return log2f(x); }
INFONCE_DEVICE float sqrt_exact(float x) { return __fsqrt_rn(x); }
INFONCE_DEVICE float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
INFONCE_DEVICE float absolute(float x) { return fabsf(x); }
// The larger of the two; if one is NaN, the other.
INFONCE_DEVICE float larger(float a, float b) { return fmaxf(a, b); }
// The larger of the two; NaN if one is NaN.
INFONCE_DEVICE float larger_or_nan(float a, float b) {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}

#else

inline uint32_t float_bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
inline float bits_float(uint32_t x) {
    float number;
    std::memcpy(&number, &x, 4);
    return number;
}
inline float exp2_fast(float x) { return std::exp2(x); }
inline float reciprocal_fast(float x) { return 1.0f / x; }
inline float exp_exact(float x) { return std::exp(x); }
inline float expm1_exact(float x) { return std::expm1(x); }
inline float log_exact(float x) { return std::log(x); }
inline float log1p_exact(float x) { return std::log1p(x); }
inline float log2_exact(float x) { return std::log2(x); }
inline float sqrt_exact(float x) { return std::sqrt(x); }
inline float fma(float a, float b, float c) { return std::fma(a, b, c); }
inline float absolute(float x) { return std::fabs(x); }
inline float larger(float a, float b) { return b > a || a != a ? b : a; }
inline float larger_or_nan(float a, float b) { return a > b || a != a ? a : b; }

#endif

constexpr float LN_2 = 0.6931471805599453f, LOG2_E = 1.4426950408889634f;
INFONCE_DEVICE float infinity() { return bits_float(0x7f800000u); }
INFONCE_DEVICE bool is_finite(float x) { return absolute(x) < infinity(); }
INFONCE_DEVICE float quiet_nan() { return bits_float(0x7fc00000u); }

}  // namespace infonce
