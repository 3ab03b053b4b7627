// softplus(y) = ln(1 + e^y) and σ(y) = 1/(1 + e^-y), with all digits also where they are small.
#pragma once

#include "ptx/math.h"

namespace infonce {

// Of y, from y2 = y·log2(e): t = e^-|y|, max(y2, 0) and σ(y).
struct Logistic {
    float t, above, sigmoid;
};

INFONCE_DEVICE Logistic logistic(float y2) {
    const float t = exp2_fast(-absolute(y2)), reciprocal = reciprocal_fast(1.0f + t);
    return {t, larger(y2, 0.0f), y2 < 0.0f ? t * reciprocal : reciprocal};
}

// max(y, 0) + ln(1 + t). The logarithm is t·(1 + t·p(t)), p fitted at Chebyshev's nodes of [0, 1]: the relative error is
// at most 2·10⁻⁷, and no special-function unit is used.
INFONCE_DEVICE float softplus(const Logistic& y) {
    float p = -0.0044662114f;
    p = fma(p, y.t, 0.025224054f);
    p = fma(p, y.t, -0.066757724f);
    p = fma(p, y.t, 0.11561845f);
    p = fma(p, y.t, -0.15847565f);
    p = fma(p, y.t, 0.19854106f);
    p = fma(p, y.t, -0.24986526f);
    p = fma(p, y.t, 0.33332843f);
    p = fma(p, y.t, -0.49999997f);
    p = fma(p, y.t, 1.0f);
    return fma(p, y.t, y.above * LN_2);
}

}  // namespace infonce
