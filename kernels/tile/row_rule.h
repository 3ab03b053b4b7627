// The loss of a row, φ(lse⁻, z₊) in nats, its masses a = ∂φ/∂lse⁻ and c = -∂φ/∂z₊, and its offset o = lse⁻ - ln a. Tile
// loops use the offset only; row-wise kernels multiply by the masses.
//
// The formulas use logarithms, softplus and sigmoid of lse⁻ - z₊, so that 1 - p₊ keeps its digits down to 1e-8.
#pragma once

#include "ptx/global.h"
#include "ptx/kernel.h"
#include "ptx/math.h"

namespace infonce {

// φ; after the colon what RowRule's `first` and `second` hold. F = e^z₊ + e^lse⁻.
enum RowRuleKind : uint32_t {
    RULE_SOFTMAX = 0,    // softplus(lse⁻ - z₊ + margin): margin
    RULE_DECOUPLED = 1,  // lse⁻ - w·z₊, w = 2 - e^(z₊/(s·σ) - log_mean), 1 without log_mean: 1/σ
    RULE_RINCE = 2,      // ((λF)^q - e^(q·z₊))/q: q, λ
    RULE_DEBIASED = 3,   // log(1 + e^-z₊·max(raw, m·e^-s)), raw = (e^lse⁻ - τ⁺·m·e^z₊)/(1 - τ⁺): τ⁺
};

struct RowRule {
    uint32_t kind;
    float first, second;
    float negatives;        // debiased: m, the number of negatives of a row
    const float* log_mean;  // decoupled with weights: log of the rows' mean of e^(z₊/(s·σ)); else null
};

struct RowValues {
    float value;      // φ
    float offset;     // o = lse⁻ - ln a, so that ∂φ/∂z_ij = e^(z_ij - o) for a negative; +∞ where a is 0
    float negatives;  // a = ∂φ/∂lse⁻
    float positive;   // c = -∂φ/∂z₊
    float scale;      // ∂φ/∂s at fixed logits
};

// log(1 + eˣ); 0 at -∞, NaN at NaN.
INFONCE_DEVICE float softplus(float x) { return x > 0.0f ? x + log1p_exact(exp_exact(-x)) : log1p_exact(exp_exact(x)); }

INFONCE_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exp_exact(-x)); }

// log(1 - eˣ) of x < 0.
INFONCE_DEVICE float log1m_exp(float x) { return x > -LN_2 ? log_exact(-expm1_exact(x)) : log1p_exact(-exp_exact(x)); }

// The weight w is a constant for gradients: Yeh et al., "Decoupled Contrastive Learning", 2022, weighted form.
INFONCE_DEVICE RowValues decoupled_values(const RowRule& rule, float s, float lse, float positive) {
    const float weight =
        rule.log_mean ? 2.0f - exp_exact(positive * (rule.first / s) - load_global(rule.log_mean)) : 1.0f;
    return {lse - weight * positive, lse, 1.0f, weight, 0.0f};
}

// Chuang et al., "Robust Contrastive Learning against Noisy Views", 2022, section 4; here q also applies to λ: (λF)^q.
INFONCE_DEVICE RowValues rince_values(const RowRule& rule, float lse, float positive) {
    const float q = rule.first, power = q * log_exact(rule.second), excess = softplus(lse - positive);
    const float log_all = positive + excess, of_positive = exp_exact(q * positive);
    const float value = of_positive * expm1_exact(power + q * excess) / q;
    const float offset = (1.0f - q) * log_all - power;
    return {value, offset, exp_exact(lse - offset), -of_positive * expm1_exact(power + (q - 1.0f) * excess), 0.0f};
}

// Chuang et al., "Debiased Contrastive Learning", 2020, equation 8: raw replaces the negatives' sum and is clamped from
// below at the least possible sum. Where it is clamped, negatives get no gradient.
INFONCE_DEVICE RowValues debiased_values(const RowRule& rule, float s, float lse, float positive) {
    const float others = log1p_exact(-rule.first), log_count = log_exact(rule.negatives);
    const float least = log_count - s;
    // log(τ⁺·m·e^z₊ / e^lse⁻).
    const float taken = log_exact(rule.first) + log_count - (lse - positive);
    const float raw = taken < 0.0f ? lse + log1m_exp(taken) - others : -infinity();
    const bool bounded = !(raw > least);
    const float margin = (bounded ? least : raw) - positive;
    const float excess = softplus(margin), share = sigmoid(margin);
    if (bounded) return {excess, infinity(), 0.0f, share, -share};
    const float offset = positive + excess + others;
    const float kept = rule.first * rule.negatives / (1.0f - rule.first);
    return {excess, offset, exp_exact(lse - offset), share + kept * exp_exact(-excess), 0.0f};
}

// The values of a row with the log-sum-exp `lse` of its negatives and the logit `positive`, each -∞ if it has none:
// such a row has no loss and no gradient. NaN in either makes all values NaN.
INFONCE_DEVICE RowValues row_values(const RowRule& rule, float s, float lse, float positive) {
    if (lse != lse || positive != positive) return {quiet_nan(), quiet_nan(), quiet_nan(), quiet_nan(), quiet_nan()};
    if (positive == -infinity()) return {0.0f, infinity(), 0.0f, 0.0f, 0.0f};
    if (lse == -infinity()) return {0.0f, positive, 0.0f, 0.0f, 0.0f};
    switch (rule.kind) {
        case RULE_DECOUPLED: return decoupled_values(rule, s, lse, positive);
        case RULE_RINCE: return rince_values(rule, lse, positive);
        case RULE_DEBIASED: return debiased_values(rule, s, lse, positive);
        default: {
            const float reduced = positive - rule.first, margin = lse - reduced;
            const float excess = softplus(margin), share = sigmoid(margin);
            return {excess, reduced + excess, share, share, 0.0f};
        }
    }
}

}  // namespace infonce
