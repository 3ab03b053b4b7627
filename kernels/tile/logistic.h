// softplus(y) = ln(1 + e^y) and σ(y) = 1/(1 + e^-y), with all digits also where they are small.
#pragma once

#include "ptx/math.h"

namespace infonce {

// Of y, from y2 = y·log2(e): t = e^-|y|, so that softplus(y) = max(y, 0) + ln(1 + t), and σ(y).
struct Logistic {
    float t, sigmoid;
};

INFONCE_DEVICE Logistic logistic(float y2) {
    const float t = exp2_fast(-absolute(y2)), reciprocal = reciprocal_fast(1.0f + t);
    return {t, y2 < 0.0f ? t * reciprocal : reciprocal};
}

// Σ softplus of a few logits with one logarithm: Π(1 + t) = 1 + u, where u keeps its digits if all t are small. Each t is
// at most 1, so u stays below 2^COUNT.
struct SoftplusSum {
    static constexpr int COUNT = 16; // most logits
    float u = 0.0f, above2 = 0.0f;   // Σ max(y2, 0)

    INFONCE_DEVICE void add(float t, float y2) {
        u = fma(u, t, u + t);
        above2 += larger(y2, 0.0f);
    }
    INFONCE_DEVICE float value() const { return fma(above2, LN_2, log1p_exact(u)); }
};

}  // namespace infonce
