// The input types T of the portable loops: `multiply`, d += a·b of an mma's fragments, and `pack`, two values rounded
// to T. STEP: elements in 32 bytes of the summed axis, 16 of a 16-bit type or 8 of f32. Weights are multiplied by
// 2^shift before they are rounded to T. Normal f16 values reach from 2^-14 to 2^16, so f16's shift brings the largest
// weight to about 2^14 (SHIFTED). The other types need no shift.
#pragma once

#include "ptx/convert.h"
#include "ptx/global.h"
#include "ptx/math.h"
#include "ptx/mma.h"
#include "ptx/types.h"

namespace infonce {

template <class T>
struct Element;

// The shift of weights that are at most 1 (gradient_online), and 2^shift.
constexpr float UNIT_SHIFT = 14.0f, UNIT_FACTOR = 16384.0f;

// f16 exponentials of a row whose lse⁻ is known have the offset lse⁻ - ROW_SHIFT (base 2), so they sum to 2^14: below
// the largest f16, and entries down to 2^-28 of the sum keep all digits.
constexpr float ROW_SHIFT = 14.0f;

// The shift of a call's known weights.
struct WeightShift {
    float shift;
    float factor;  // 2^shift
};

// Two-term weights share an exponential, W_ij = 2^z_ij · (2^(shift - o_i) + 2^(shift - o_j)), where every offset |o| of
// the call (base 2) and the shift are at most NEAR. 2^z overflows only if a mass exceeds 2^68, because z is at most
// lse⁻ = o + log2 a. Below z = -126 both terms, each less than 2^-66 before the shift, become 0.
constexpr float NEAR = 60.0f;

// `far`: the word that combine_statistics sets where some |o| exceeds NEAR.
INFONCE_DEVICE bool share_exponential(const uint32_t* far, float shift) { return shift <= NEAR && !load_global(far); }

// What offset o (`offset2`, base 2) of a row or column contributes to its term 2^(z - o + shift): the summand shift - o
// of the exponent, or, if two terms `share` 2^z, the factor 2^(shift - o).
INFONCE_DEVICE float weight_term(float shift, float offset2, bool share) {
    return share ? exp2_fast(shift - offset2) : shift - offset2;
}

// Values of two neighbouring columns.
struct Pair {
    float x[2];
};

// The shift and 2^shift, for -126 ≤ shift ≤ 127.
INFONCE_DEVICE WeightShift shift_by(int shift) { return {float(shift), bits_float(uint32_t(127 + shift) << 23)}; }

// 2^-shift, the factor that removes the shift from sums; 1 if there is no shift.
INFONCE_DEVICE float unshifted(const WeightShift* shift) { return shift ? 1.0f / load_global(shift).factor : 1.0f; }

template <>
struct Element<bf16> {
    static constexpr int STEP = 16;
    static constexpr bool SHIFTED = false;
    INFONCE_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        mma_bf16(d, a, b);
    }
    INFONCE_DEVICE static uint32_t pack(float low, float high) { return pack_bf16(low, high); }
};

template <>
struct Element<f16> {
    static constexpr int STEP = 16;
    static constexpr bool SHIFTED = true;
    INFONCE_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        mma_f16(d, a, b);
    }
    INFONCE_DEVICE static uint32_t pack(float low, float high) { return pack_f16(low, high); }
};

// f32 as the sum of two tf32, three of the four products. The product left out and the rounding of the low halves are
// at most 3·2^-22 of the product.
template <>
struct Element<float> {
    static constexpr int STEP = 8;
    static constexpr bool SHIFTED = false;
    INFONCE_DEVICE static void split(uint32_t x, uint32_t& high, uint32_t& low) {
        high = to_tf32(bits_float(x));
        low = to_tf32(bits_float(x) - bits_float(high));
    }
    INFONCE_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        uint32_t a_high[4], a_low[4], b_high[2], b_low[2];
        INFONCE_UNROLL
        for (int i = 0; i < 4; ++i) split(a[i], a_high[i], a_low[i]);
        INFONCE_UNROLL
        for (int i = 0; i < 2; ++i) split(b[i], b_high[i], b_low[i]);
        mma_tf32(d, a_low, b_high);
        mma_tf32(d, a_high, b_low);
        mma_tf32(d, a_high, b_high);
    }
};

// f32 rounded to tf32, one product.
template <>
struct Element<tf32> {
    static constexpr int STEP = 8;
    static constexpr bool SHIFTED = false;
    INFONCE_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        uint32_t a_rounded[4], b_rounded[2];
        INFONCE_UNROLL
        for (int i = 0; i < 4; ++i) a_rounded[i] = to_tf32(bits_float(a[i]));
        INFONCE_UNROLL
        for (int i = 0; i < 2; ++i) b_rounded[i] = to_tf32(bits_float(b[i]));
        mma_tf32(d, a_rounded, b_rounded);
    }
};

template <class T>
INFONCE_DEVICE float weight_shift(const WeightShift* of_call) {
    return Element<T>::SHIFTED ? load_global(&of_call->shift) : 0.0f;
}

}  // namespace infonce
