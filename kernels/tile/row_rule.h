// The loss of a row, φ(lse⁻, z₊) in nats, its masses a = ∂φ/∂lse⁻ and c = -∂φ/∂z₊, and its offset o = lse⁻ - ln a. Tile
// loops use the offset only; row-wise kernels multiply by the masses. Rules of sets and of two exponents have a second
// exponential, with an offset o₂ (src/losses/rule.rs has the formulas).
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
    // Sets of positives P.
    RULE_SETS_OUTSIDE = 4,    // log Σ e^z over all - mean_P z, with label smoothing: ε
    RULE_SETS_INSIDE = 5,     // log Σ e^z over all - log mean_P e^z
    RULE_SETS_DECOUPLED = 6,  // lse⁻ - mean_P z
    // Two exponents.
    RULE_HARD = 7,  // debiased with m·Σ e^((1+β)z) / Σ e^(βz) in place of e^lse⁻: τ⁺, β
    // Sets, pointwise.
    RULE_SIGMOID = 8,  // Σ softplus(z + b) over negatives + Σ softplus(-z - b) over positives: b
    // Soft targets t = softmax(u).
    RULE_TARGETS = 9,     // lse - Σ t·z, with the divergence less the entropy of t: the scale of u, whether it is one
    RULE_ALIGNMENT = 10,  // 2 - 2·z₊/s
};

struct RowRule {
    uint32_t kind;
    float first, second;
    float negatives;        // debiased: m, the number of negatives of a row
    const float* log_mean;  // decoupled with weights: log of the rows' mean of e^(z₊/(s·σ)); else null

    INFONCE_DEVICE bool takes_sets() const { return kind >= RULE_SETS_OUTSIDE && kind <= RULE_SETS_DECOUPLED; }
    INFONCE_DEVICE bool needs_positive() const { return kind != RULE_SIGMOID && kind != RULE_TARGETS; }
    INFONCE_DEVICE bool needs_negatives() const {
        return kind != RULE_SETS_OUTSIDE && kind != RULE_SETS_INSIDE && kind != RULE_SIGMOID && kind != RULE_ALIGNMENT;
    }
    INFONCE_DEVICE bool has_two_exponents() const { return kind == RULE_HARD; }
};

// Summaries of a row's logits, in nats. The last four are of sets alone, the third of sets (lse⁺) and of two exponents
// (of βz, and the first then is of (1+β)z). Of a sigmoid the first is the logarithm of the sum of softplus; of soft
// targets the second is Σ t·z, the third lse of u, the fourth Σ t·u.
struct RowLogits {
    float negatives_lse, positive, second_lse, negatives_mean, positives, negatives;
};

// The same of all rows; null where there are none.
struct RowPlanes {
    float *negatives_lse, *positive, *second_lse, *negatives_mean, *positives, *negatives;

    INFONCE_DEVICE RowLogits load(uint32_t row) const {
        const auto plane = [&](const float* from) { return from ? load_global(from + row) : 0.0f; };
        return {load_global(negatives_lse + row), load_global(positive + row), plane(second_lse),
                plane(negatives_mean),            plane(positives),            plane(negatives)};
    }
};

struct RowValues {
    float value;      // φ
    float offset;     // o = lse⁻ - ln a, so that ∂φ/∂z_ij = e^(z_ij - o) for a negative; +∞ where a is 0
    float negatives;  // a = ∂φ/∂lse⁻
    float positive;   // c = -∂φ/∂z₊
    float scale;      // ∂φ/∂s at fixed logits
    float second;     // o₂; +∞ where there is no second exponential
    float uniform;    // ε', what label smoothing subtracts for every candidate that is not excluded
};

// Of a row without a loss.
INFONCE_DEVICE RowValues no_loss(float offset) { return {0.0f, offset, 0.0f, 0.0f, 0.0f, infinity(), 0.0f}; }

// φ and its derivatives times w ≥ 0. A weight of 0 leaves the row out, whatever its logits.
INFONCE_DEVICE RowValues weighted(const RowValues& x, float w) {
    if (w == 0.0f) return no_loss(infinity());
    const float log_weight = log_exact(w);
    return {w * x.value, x.offset - log_weight, w * x.negatives, w * x.positive, w * x.scale, x.second - log_weight,
            w * x.uniform};
}

// log(1 + eˣ); 0 at -∞, NaN at NaN.
INFONCE_DEVICE float softplus(float x) { return x > 0.0f ? x + log1p_exact(exp_exact(-x)) : log1p_exact(exp_exact(x)); }

INFONCE_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exp_exact(-x)); }

// log(1 - eˣ) of x < 0.
INFONCE_DEVICE float log1m_exp(float x) { return x > -LN_2 ? log_exact(-expm1_exact(x)) : log1p_exact(-exp_exact(x)); }

// The weight w is a constant for gradients: Yeh et al., "Decoupled Contrastive Learning", 2022, weighted form.
INFONCE_DEVICE RowValues decoupled_values(const RowRule& rule, float s, float lse, float positive) {
    const float weight =
        rule.log_mean ? 2.0f - exp_exact(positive * (rule.first / s) - load_global(rule.log_mean)) : 1.0f;
    return {lse - weight * positive, lse, 1.0f, weight, 0.0f, infinity(), 0.0f};
}

// Chuang et al., "Robust Contrastive Learning against Noisy Views", 2022, section 4; here q also applies to λ: (λF)^q.
INFONCE_DEVICE RowValues rince_values(const RowRule& rule, float lse, float positive) {
    const float q = rule.first, power = q * log_exact(rule.second), excess = softplus(lse - positive);
    const float log_all = positive + excess, of_positive = exp_exact(q * positive);
    const float value = of_positive * expm1_exact(power + q * excess) / q;
    const float offset = (1.0f - q) * log_all - power;
    const float mass = -of_positive * expm1_exact(power + (q - 1.0f) * excess);
    return {value, offset, exp_exact(lse - offset), mass, 0.0f, infinity(), 0.0f};
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
    if (bounded) return {excess, infinity(), 0.0f, share, -share, infinity(), 0.0f};
    const float offset = positive + excess + others;
    const float kept = rule.first * rule.negatives / (1.0f - rule.first);
    return {excess, offset, exp_exact(lse - offset), share + kept * exp_exact(-excess), 0.0f, infinity(), 0.0f};
}

// Robinson et al., "Contrastive Learning with Hard Negative Samples", 2021, equation 4.
INFONCE_DEVICE RowValues hard_values(const RowRule& rule, float s, const RowLogits& row) {
    const float beta = rule.second, taken = log_exact(rule.negatives) - row.second_lse;
    RowValues values = debiased_values(rule, s, row.negatives_lse + taken, row.positive);
    // The offset less the logarithm of the weighted sum is -ln a.
    const float rest = values.offset - taken - row.negatives_lse;
    values.offset = row.negatives_lse + rest - log_exact(1.0f + beta);
    values.second = row.second_lse + rest - log_exact(beta);
    return values;
}

// By way of log Σ_all e^z = lse⁺ + softplus(lse⁻ - lse⁺). `positive` is each positive's share of c. A set of one has
// lse⁺ = z₊ and the weight -a, no difference of an exponential and 1, so that 1 - p₊ keeps its digits. Khosla et al.,
// "Supervised Contrastive Learning", 2020, equations 2 and 3.
INFONCE_DEVICE RowValues set_values(const RowRule& rule, const RowLogits& row) {
    if (rule.kind == RULE_SETS_DECOUPLED)
        return {row.negatives_lse - row.positive, row.negatives_lse, 1.0f, 1.0f / row.positives, 0.0f, infinity(), 0.0f};
    const bool is_one = row.positives == 1.0f;
    const float of_positives = is_one ? row.positive : row.second_lse;
    const float margin = row.negatives_lse - of_positives, excess = softplus(margin), share = sigmoid(margin);
    const float all = of_positives + excess;
    if (rule.kind == RULE_SETS_INSIDE && !is_one)
        return {excess + log_exact(row.positives), all, share, 0.0f, 0.0f, of_positives + softplus(-margin), 0.0f};
    const float smoothing = rule.first, count = row.positives + row.negatives;
    const float of_negatives = smoothing * row.negatives / count;
    const float value = excess + (of_positives - row.positive) + of_negatives * (row.positive - row.negatives_mean);
    if (is_one) return {value, all, share, share - smoothing, 0.0f, infinity(), smoothing / count};
    return {value, all, share, (1.0f - smoothing) / row.positives, 0.0f, all, smoothing / count};
}

// The values of a row. Without a positive (-∞) it has no loss and no gradient, and without negatives (-∞), but for sets
// whose positives are in the denominator. NaN makes all values NaN.
INFONCE_DEVICE RowValues row_values(const RowRule& rule, float s, const RowLogits& row) {
    const float lse = row.negatives_lse, positive = row.positive;
    if (lse != lse || positive != positive)
        return {quiet_nan(), quiet_nan(), quiet_nan(), quiet_nan(), quiet_nan(), quiet_nan(), quiet_nan()};
    if (positive == -infinity() && rule.needs_positive()) return no_loss(infinity());
    if (lse == -infinity() && rule.needs_negatives()) return no_loss(positive);
    switch (rule.kind) {
        case RULE_SIGMOID: return {exp_exact(lse), 0.0f, 1.0f, 0.0f, 0.0f, infinity(), 0.0f};
        case RULE_TARGETS: {
            const float entropy = rule.second != 0.0f ? row.second_lse - row.negatives_mean : 0.0f;
            return {lse - positive - entropy, lse, 1.0f, 0.0f, 0.0f, row.second_lse, 0.0f};
        }
        case RULE_ALIGNMENT: {
            const float mass = 2.0f / s, share = positive * mass;
            return {2.0f - share, infinity(), 0.0f, mass, share / s, infinity(), 0.0f};
        }
        case RULE_SETS_OUTSIDE:
        case RULE_SETS_INSIDE:
        case RULE_SETS_DECOUPLED: return set_values(rule, row);
        case RULE_HARD: return hard_values(rule, s, row);
        case RULE_DECOUPLED: return decoupled_values(rule, s, lse, positive);
        case RULE_RINCE: return rince_values(rule, lse, positive);
        case RULE_DEBIASED: return debiased_values(rule, s, lse, positive);
        default: {
            const float reduced = positive - rule.first, margin = lse - reduced;
            const float excess = softplus(margin), share = sigmoid(margin);
            return {excess, reduced + excess, share, share, 0.0f, infinity(), 0.0f};
        }
    }
}

}  // namespace infonce
