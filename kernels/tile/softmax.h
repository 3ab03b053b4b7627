// Sums of exponentials against a running maximum, Σ_j 2^(z_j) = sum · 2^maximum, and 2^x by a polynomial.
#pragma once

#include "ptx/kernel.h"
#include "ptx/math.h"
#include "ptx/shuffle.h"

namespace infonce {

// The value sum · 2^maximum. An empty sum has maximum -∞ and sum 0.
struct ScaledSum {
    float maximum;
    float sum;
};

// What bound_logits (similarity/positives.cu) finds about all logits z of a call, in base 2.
struct LogitBound {
    uint32_t holds;  // whether every 2^(z - offset), and sums of them, are normal f32 values
    float offset;
    float lengths;  // log2(max‖k‖ / min‖k‖)
    uint32_t padding;
};

INFONCE_DEVICE ScaledSum empty_sum() { return {-infinity(), 0.0f}; }

// The maximum as an offset, 0 in place of -∞: then -∞ - offset is -∞ and not NaN.
INFONCE_DEVICE float finite_offset(float maximum) { return maximum == -infinity() ? 0.0f : maximum; }

INFONCE_DEVICE ScaledSum combine(ScaledSum a, ScaledSum b) {
    // A NaN sum survives whatever the maxima are.
    const float maximum = a.maximum > b.maximum ? a.maximum : b.maximum;
    const float offset = finite_offset(maximum);
    return {maximum, a.sum * exp2_fast(a.maximum - offset) + b.sum * exp2_fast(b.maximum - offset)};
}

// Combines with the thread whose lane differs in the bit `mask`. Both get the same bits: the lower lane is the first
// operand.
INFONCE_DEVICE ScaledSum combine_across(ScaledSum own, int mask) {
    const ScaledSum other = {shuffle_xor(own.maximum, mask), shuffle_xor(own.sum, mask)};
    const bool second = thread_index() & mask;
    return combine(second ? other : own, second ? own : other);
}

// 2^x for x up to 127 on the FMA units. (A clock and SM: 16 exponentials of the special-function unit, 128 FMAs.)
// 2^x = 2^j · 2^f, j the nearest integer, 2^f a polynomial of degree 5, minimax in the relative error on [-½, ½]. The
// relative error, rounding included, is at most 2.2·10⁻⁷, as the unit's own. 0 for x below -126.5; NaN at NaN.
INFONCE_DEVICE float exp2_polynomial(float x) {
    constexpr float ROUNDS = 12582912.0f;  // 1.5 · 2^23: the integer stands in the lowest bits of the sum
    x = larger_or_nan(x, -127.0f);
    const float sum = x + ROUNDS;
    const float f = x - (sum - ROUNDS);
    float power = 0.001327647129073739f;
    power = fma(power, f, 0.009675540961325169f);
    power = fma(power, f, 0.05550713092088699f);
    power = fma(power, f, 0.24022120237350464f);
    power = fma(power, f, 0.6931469440460205f);
    power = fma(power, f, 1.0000001192092896f);
    return power * bits_float((float_bits(sum) << 23) + 0x3f800000u);
}

// 2^x of a thread's entry number `entry`: by the polynomial for every EACH-th entry, none if EACH is 0.
template <int EACH>
INFONCE_DEVICE float exp2_shared_out(int entry, float x) {
    return EACH != 0 && entry % (EACH != 0 ? EACH : 1) == 0 ? exp2_polynomial(x) : exp2_fast(x);
}

// Maximum and sum over the four threads that hold a row of an mma's result.
INFONCE_DEVICE float quad_maximum(float x) {
    INFONCE_UNROLL
    for (int mask = 1; mask <= 2; mask *= 2) x = larger(x, shuffle_xor(x, mask));
    return x;
}

INFONCE_DEVICE float quad_sum(float x) {
    INFONCE_UNROLL
    for (int mask = 1; mask <= 2; mask *= 2) x += shuffle_xor(x, mask);
    return x;
}

}  // namespace infonce
