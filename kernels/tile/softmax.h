// Sums of exponentials against a running maximum, in base 2.
#pragma once

#include "ptx/kernel.h"
#include "ptx/math.h"
#include "ptx/shuffle.h"

namespace infonce {

// sum · 2^maximum; an empty sum is (-∞, 0).
struct ScaledSum {
    float maximum;
    float sum;
};

INFONCE_DEVICE ScaledSum empty_sum() { return {-infinity(), 0.0f}; }

// An offset that leaves -∞ - offset at -∞, not NaN.
INFONCE_DEVICE float finite_offset(float maximum) { return maximum == -infinity() ? 0.0f : maximum; }

INFONCE_DEVICE ScaledSum combine(ScaledSum a, ScaledSum b) {
    // A NaN sum has to survive whatever the maxima say.
    const float maximum = a.maximum > b.maximum ? a.maximum : b.maximum;
    const float offset = finite_offset(maximum);
    return {maximum, a.sum * exp2_fast(a.maximum - offset) + b.sum * exp2_fast(b.maximum - offset)};
}

// Over the four threads that hold a row of an mma's result.
INFONCE_DEVICE float quad_maximum(float x) {
    INFONCE_UNROLL
    for (int mask = 1; mask <= 2; mask *= 2) {
        const float other = shuffle_xor(x, mask);
        x = other > x ? other : x;
    }
    return x;
}

INFONCE_DEVICE float quad_sum(float x) {
    INFONCE_UNROLL
    for (int mask = 1; mask <= 2; mask *= 2) x += shuffle_xor(x, mask);
    return x;
}

}  // namespace infonce
