// Row by row after the tile loops: lse⁻_i, offset o_i and masses a_i, c_i (combine_statistics), f16's shifts, the
// factors 2^(o - o_i) (fold_rows), dx_i = factor·(Σ_j W_ij y_j - Σ c·k₊) (finish_gradient), Σ w·φ_i (reduce). Partial
// results are added in a fixed order. O((N + M)·D) each, times the splits of a sum.
#include "ptx/barrier.h"
#include "ptx/global.h"
#include "ptx/math.h"
#include "ptx/shared.h"
#include "similarity/row_blocks.h"
#include "tile/contrast.h"
#include "tile/element.h"
#include "tile/matrix.h"
#include "tile/row_rule.h"
#include "tile/set_sums.h"
#include "tile/softmax.h"

namespace infonce {

// ---- Statistics

struct StatisticsParams {
    const ScaledSum* partial;   // splits × rows; null: negatives_lse is given
    uint32_t splits, rows;
    ScaledSum* running;         // sums of earlier launches over the same rows; null: there is only this launch
    const uint32_t* unless;     // if set, the kernel does nothing; null: never
    uint32_t first, last;       // whether this launch is the first, and the last, over its rows
    uint32_t lanes;             // threads a row, a power of two up to 32; each adds every `lanes`-th split
    // A candidate that is not finite makes every row NaN; an anchor does if columns have a loss.
    uint32_t symmetric;
    const uint32_t* not_finite;
    uint32_t* far;              // zero before; set where a row's |offset2| exceeds NEAR; null: not wanted
    ContrastView contrast;
    RowRule rule;
    RowPlanes of_rows;          // z₊ is given, but for sets; the others where there are no partial sums
    // Partial sums of options.h, splits × rows: of two exponents or sets, and of sets. Null otherwise.
    const ScaledSum* second;
    const SetSums* sets;
    const float* weights;       // w of the rows; null: 1
    // The row's o in base 2, a and c, all with w. In RULE_SOFTMAX a = c is stored once: positive_mass equals
    // negatives_mass. With options, the largest mass of the row's weights stands for a.
    float* offset2;
    float* negatives_mass;
    float* positive_mass;
    float* second_offset2;      // o₂ in base 2, and ε'; null: not wanted
    float* uniform;
};

// The logarithm in nats. The maximum of an empty sum is -∞, and so is its logarithm.
INFONCE_DEVICE float log_of(const ScaledSum& sum) {
    return sum.sum == 0.0f ? -infinity() : (sum.maximum + log2_exact(sum.sum)) * LN_2;
}

// lse⁻_i = ln Σ_splits sum · 2^maximum, then o_i, a_i and c_i by the rule.
INFONCE_KERNEL(combine_statistics, StatisticsParams) {
    const uint32_t thread = block_index().x * list::combine_statistics::THREADS + thread_index();
    const uint32_t row = thread / p.lanes, lane = thread % p.lanes;
    if (p.unless && load_global(p.unless)) return;
    const bool inside = row < p.rows;
    ScaledSum sum = inside && lane == 0 && p.running && !p.first ? load_global(p.running + row) : empty_sum();
    ScaledSum second = empty_sum();
    SetSums sets = {};
    for (uint32_t split = lane; p.partial && inside && split < p.splits; split += p.lanes) {
        const uint64_t at = uint64_t(split) * p.rows + row;
        sum = combine(sum, load_global(p.partial + at));
        if (p.second) second = combine(second, load_global(p.second + at));
        if (p.sets) sets = add(sets, load_global(p.sets + at));
    }
    for (uint32_t mask = 1; mask < p.lanes; mask *= 2) {
        sum = combine_across(sum, int(mask));
        if (p.second) second = combine_across(second, int(mask));
        if (p.sets) sets = add_across(sets, int(mask));
    }
    if (!inside || lane != 0) return;
    const RowPlanes& to = p.of_rows;
    RowLogits logits;
    const float s = p.contrast.scale_value();
    if (p.partial) {
        if (p.running && !p.last) {
            store_global(p.running + row, sum);
            return;
        }
        logits = {log_of(sum), load_global(to.positive + row), log_of(second), 0.0f, sets.positives, sets.negatives};
        store_global(to.negatives_lse + row, logits.negatives_lse);
        if (to.second_lse) store_global(to.second_lse + row, logits.second_lse);
        if (p.sets) {
            // An anchor that is not finite has made z₊ NaN.
            if (logits.positive == logits.positive)
                logits.positive = sets.positives == 0.0f ? -infinity() : s * sets.positives_sum / sets.positives;
            if (sets.negatives != 0.0f) logits.negatives_mean = s * sets.negatives_sum / sets.negatives;
            store_global(to.positives + row, logits.positives);
            store_global(to.negatives_mean + row, logits.negatives_mean);
            store_global(to.negatives + row, logits.negatives);
        }
    } else {
        logits = to.load(row);
    }
    if (load_global(p.not_finite + 1) || (p.symmetric && load_global(p.not_finite)))
        logits.positive = quiet_nan();
    store_global(to.positive + row, logits.positive);
    RowValues values = row_values(p.rule, s, logits);
    // Weights of the first exponent add up to (1 + β)·a. Of sets, negatives' add up to a and positives' exponentials to
    // e^(lse⁺ - o₂), and c and ε' are subtracted.
    if (p.rule.has_two_exponents()) values.negatives *= 1.0f + p.rule.second;
    if (p.rule.takes_sets()) {
        const float constant = absolute(values.positive) + values.uniform;
        values.negatives = larger(values.negatives, larger(exp_exact(logits.second_lse - values.second), constant));
    }
    if (p.weights) values = weighted(values, load_global(p.weights + row));
    const float offset2 = values.offset * LOG2_E;
    store_global(p.offset2 + row, offset2);
    if (p.far && !(absolute(offset2) <= NEAR)) store_global(p.far, 1u);
    store_global(p.negatives_mass + row, values.negatives);
    if (p.positive_mass != p.negatives_mass) store_global(p.positive_mass + row, values.positive);
    if (p.second_offset2) store_global(p.second_offset2 + row, values.second * LOG2_E);
    if (p.uniform) store_global(p.uniform + row, values.uniform);
}

struct MergeParams {
    RowPlanes of_rows;  // against the first set, in nats; they become those against both sets
    RowPlanes others;
    uint32_t rows;
};

// log(e^a + e^b), -∞ if both are.
INFONCE_DEVICE float merged_lse(float a, float b) {
    const float most = larger_or_nan(a, b);
    // If neither side has terms, the difference is NaN.
    return most == -infinity() ? most : most + log1p_exact(exp_exact(-absolute(a - b)));
}

// A mean over `count` joined with one over `others`. Where a count is 0 its mean does not matter, unless it is NaN.
INFONCE_DEVICE float merged_mean(float mean, float count, float other, float others) {
    if (others == 0.0f && other == other) return mean;
    if (count == 0.0f && mean == mean) return other;
    const float share = others / (count + others);
    return mean * (1.0f - share) + other * share;
}

// Joins statistics against two sets of candidates: lse⁻ = log(e^lse⁻₁ + e^lse⁻₂), and z₊ of the set that has it. Of sets
// of positives, means by their counts.
INFONCE_KERNEL(merge_statistics, MergeParams) {
    const uint32_t row = block_index().x * list::merge_statistics::THREADS + thread_index();
    if (row >= p.rows) return;
    const RowPlanes& to = p.of_rows;
    const RowLogits a = to.load(row), b = p.others.load(row);
    store_global(to.negatives_lse + row, merged_lse(a.negatives_lse, b.negatives_lse));
    if (to.second_lse) store_global(to.second_lse + row, merged_lse(a.second_lse, b.second_lse));
    if (!to.positives) {
        store_global(to.positive + row, larger_or_nan(a.positive, b.positive));
        return;
    }
    store_global(to.positive + row, merged_mean(a.positive, a.positives, b.positive, b.positives));
    store_global(to.negatives_mean + row, merged_mean(a.negatives_mean, a.negatives, b.negatives_mean, b.negatives));
    store_global(to.positives + row, a.positives + b.positives);
    store_global(to.negatives + row, a.negatives + b.negatives);
}

// ---- Gradients

struct ShiftParams {
    const float* row_mass;     // a of the rows
    const float* column_mass;  // a of the columns; null: they have no loss
    uint32_t rows, columns;
    WeightShift* shift;
};

// shift = 13 - ⌊log2 max a⌋ brings the largest mass below 2^14, and with it each term: those of row i add up to a_i.
// One block.
INFONCE_KERNEL(find_weight_shift, ShiftParams) {
    float largest[1] = {0.0f};
    const auto take = [&](float mass) { largest[0] = larger(largest[0], mass); };
    for_own(p.rows, [&](uint32_t i) { return load_global(p.row_mass + i); }, take);
    if (p.column_mass) for_own(p.columns, [&](uint32_t i) { return load_global(p.column_mass + i); }, take);
    join_block<list::find_weight_shift>(largest, larger);
    if (thread_index() != 0) return;
    // The shift is at most 114, for masses below 2^-100, and -114 for the largest f32.
    const uint32_t exponent = float_bits(largest[0]) >> 23;
    store_global(p.shift, shift_by(int(UNIT_SHIFT) + (exponent > 26 ? 126 - int(exponent) : 100)));
}

struct FitParams {
    const float* negatives_lse;  // in nats, of the chunk's rows
    const float* offset2;
    const float* square_norms;   // of the chunk's anchors
    const float* weights;        // w of the chunk's rows; null: 1
    uint32_t rows;
    float lowest;                // log2(M·2^-14), the least log2 Σ_j E_ij for candidates of equal length
    float range;                 // the largest log2(longest / shortest folded anchor)
    const LogitBound* bound;
    uint32_t* fit;               // set if the exponentials stay as they are
    WeightShift* shift;          // of the folded anchors
};

// fit: whether f16 holds a chunk's exponentials with one offset o, and its folded anchors f_i·q_i, f_i = 2^(o - o_i).
// If not, the exponentials are stored again with an offset a row. shift: brings the longest folded anchor to at most
// 2^15. One block.
//
// An exponential below 2^-14 is off by up to 2^-25, so a row of E·K is off by at most M·2^-25·max‖k‖. That has to be
// small beside Σ_j E_ij·‖k_j‖. Folded anchors are short where Σ_j E_ij is large, or where p₊ is near 1. Rows with p₊
// near 1 do not matter beside others, so the lengths compared are those of w·q_i/Σ_j E_ij. With few candidates p₊ can be
// near 1 for most rows; then `range` is such that no chunk fits.
INFONCE_KERNEL(fit_exponentials, FitParams) {
    struct Row {
        float negatives_lse, offset2, square, weight;
    };
    const LogitBound bound = load_global(p.bound);
    // Maxima of log2 of 1/Σ_j E_ij; of the folded anchor's length with one offset, and with an offset a row; and of
    // Σ_j E_ij/‖q_i‖.
    float most[4] = {-infinity(), -infinity(), -infinity(), -infinity()};
    for_own(
        p.rows,
        [&](uint32_t i) {
            return Row{load_global(p.negatives_lse + i), load_global(p.offset2 + i), load_global(p.square_norms + i),
                       p.weights ? load_global(p.weights + i) : 1.0f};
        },
        [&](const Row& row) {
            const float negatives = row.negatives_lse * LOG2_E, sum = negatives - bound.offset;
            // Rows without negatives have no exponentials, and those that are left out no gradient.
            if (!(negatives > -infinity()) || row.weight == 0.0f) return;
            most[0] = larger(most[0], -sum);
            if (!(row.square > 0.0f)) return;
            const float norm = 0.5f * log2_exact(row.square);
            most[1] = larger(most[1], norm + bound.offset - row.offset2);
            most[2] = larger(most[2], norm + negatives - ROW_SHIFT - row.offset2);
            most[3] = larger(most[3], sum - norm - log2_exact(row.weight));
        });
    join_block<list::fit_exponentials>(most, larger);
    if (thread_index() != 0) return;
    const float least = -most[0], longest = most[1], longest_of_rows = most[2], shortest = -most[3];
    const bool fit = bound.holds && least >= p.lowest + bound.lengths && longest - shortest <= p.range;
    // Without a bound the exponentials have an offset a row already.
    store_global(p.fit, uint32_t(fit || !bound.holds));
    // Zero anchors were skipped above; their factor f_i is at most 2^14, and with the shift it has to stay finite.
    constexpr float MOST = 112.0f;
    const float headroom = 15.0f - (fit ? longest : longest_of_rows);
    const int shift = headroom < MOST ? (headroom > -MOST ? int(headroom + MOST) - int(MOST) : -int(MOST)) : int(MOST);
    store_global(p.shift, shift_by(shift));
}

// A row's sum over all splits (splits × rows), by a warp.
INFONCE_DEVICE ScaledSum sum_of_splits(const ScaledSum* partial, uint32_t splits, uint32_t rows, uint64_t row) {
    ScaledSum sum = empty_sum();
    for (uint32_t split = thread_index() % 32; split < splits; split += 32)
        sum = combine(sum, load_global(partial + uint64_t(split) * rows + row));
    for (int mask = 1; mask < 32; mask *= 2) sum = combine_across(sum, mask);
    return sum;
}

struct FoldParams {
    const ScaledSum* partial;  // splits × rows, Σ_j E_ij
    const float* offset2;      // of the chunk's rows
    uint32_t splits, rows, dim;
    Matrix anchors;            // of the chunk
    Matrix folded;             // anchors times their factors, in the same type; data null: not wanted
    const WeightShift* shift;  // f16: `folded` is multiplied by 2^shift, too; null: shift 0
    float* factors;
};

// factor_i = 2^(o - o_i), o the offset of the stored exponentials and o_i the row's own; and factor_i · q_i. A warp a
// row.
INFONCE_KERNEL(fold_rows, FoldParams) {
    const uint32_t lane = thread_index() % 32;
    const uint64_t row = warp_row<list::fold_rows>();
    if (row >= p.rows) return;
    const ScaledSum sum = sum_of_splits(p.partial, p.splits, p.rows, row);
    // Without negatives all E_ij are 0, and so is the factor.
    const float exponent = sum.sum == 0.0f ? -infinity() : sum.maximum - load_global(p.offset2 + row);
    if (lane == 0) store_global(p.factors + row, exp2_fast(exponent));
    if (!p.folded.data) return;
    const float factor = exp2_fast(exponent + (p.shift ? load_global(p.shift).shift : 0.0f));
    const bool quads = p.anchors.in_quads(p.dim) && p.folded.in_quads(p.dim);
    for (uint32_t d = 4 * lane; d < p.dim; d += 128) {
        float x[4];
        p.anchors.load_four(x, row, d, p.dim, quads);
        INFONCE_UNROLL
        for (int i = 0; i < 4; ++i) x[i] *= factor;
        p.folded.store_four(x, row, d, p.dim, quads);
    }
}

struct FinishParams {
    const float* sums;             // splits × rows × D
    const ScaledSum* normalisers;  // of gradient_online, splits × rows; null: weights have known offsets
    uint32_t splits, rows, dim;
    uint32_t shifted;              // whether weights were multiplied by 2^shift (f16)
    uint32_t warps;                // warps a row, a power of two up to the warps of a block
    uint32_t first_row;            // its index among all anchors (candidates)
    const float* factors;          // f_i of fold_rows; null: 1
    ContrastView contrast;
    float coefficient;             // upstream · w; the gradient's factor is this times s and `counted`
    uint32_t of_candidates;        // whether the rows are candidates, and their partners anchors
    const float* counted;          // of count_positives; null: 1
    const float* weights;          // of all anchors, where one of weight 0 has gradient 0 even if it is NaN; else null
    const float* added;            // rows × D, in f32: added to the gradient; null: nothing is
    const float* negatives_mass;   // a of all anchors, where there are normalisers
    const float* row_mass;         // c of all anchors
    const float* column_mass;      // c of all candidates; null: they have no loss
    // The positives: candidates, anchors, or a key of each anchor's own; data null: the weights have them already.
    Matrix partners;
    uint32_t own_keys;             // whether they are own keys
    uint32_t accumulates;          // whether to add to the gradient that is there
    // Of candidates, positives by index: the anchors of candidate j are order[n], starts[j] ≤ n < starts[j + 1].
    const uint32_t* starts;
    const uint32_t* order;
    Matrix rows_of;                // the rows the gradient belongs to
    Matrix gradient;
    const WeightShift* shift;      // of the weights; null: UNIT_SHIFT (after gradient_online)
    float* dots;                   // Σ_d x_d dx_d of each row, before rounding; null: not wanted
};

// The partner of a row (an anchor's positive, a candidate's anchor), if it has at most one, and its mass c.
struct Partner {
    bool exists;
    uint32_t row;
    float mass;

    INFONCE_DEVICE Partner(const FinishParams& p, uint32_t own_row) {
        row = own_row;
        mass = 0.0f;
        exists = !p.starts && p.partners.data;
        if (exists && p.of_candidates) {
            exists = own_row < p.contrast.anchors;
            if (p.contrast.rule == POSITIVE_PAIRED) row = p.contrast.positive(own_row);
        } else if (exists && !p.own_keys) {
            row = p.contrast.positive(own_row);
            exists = row < p.contrast.candidates;
        }
        if (!exists) return;
        mass = load_global(p.row_mass + (p.of_candidates ? row : own_row));
        if (p.column_mass) mass += load_global(p.column_mass + (p.of_candidates ? own_row : row));
    }
};

// Subtracts c·q, elements `first` to `first` + 3, for every anchor of candidate `row`. A warp takes every `warps`-th
// anchor from `own` on, GROUP at a time, so that as many loads are in flight.
INFONCE_DEVICE void subtract_group(const FinishParams& p, uint32_t row, uint32_t own, uint32_t first, bool quads,
                                   float (&sums)[4]) {
    constexpr uint32_t GROUP = 4;
    const uint32_t end = load_global(p.starts + row + 1);
    for (uint32_t n = load_global(p.starts + row) + own; n < end; n += GROUP * p.warps) {
        uint32_t anchor[GROUP];
        float mass[GROUP], q[GROUP][4];
        INFONCE_UNROLL
        for (uint32_t i = 0; i < GROUP; ++i) anchor[i] = load_global(p.order + (n + i * p.warps < end ? n + i * p.warps : n));
        INFONCE_UNROLL
        for (uint32_t i = 0; i < GROUP; ++i) mass[i] = n + i * p.warps < end ? load_global(p.row_mass + anchor[i]) : 0.0f;
        INFONCE_UNROLL
        for (uint32_t i = 0; i < GROUP; ++i) p.partners.load_four(q[i], anchor[i], first, p.dim, quads);
        INFONCE_UNROLL
        for (uint32_t i = 0; i < GROUP; ++i)
            INFONCE_UNROLL
            for (int j = 0; j < 4; ++j) sums[j] = fma(-mass[i], q[i][j], sums[j]);
    }
}

// dx_i = factor · (share · Σ_splits sums_i - Σ c·partner), share = f_i · 2^-shift, after gradient_online a_i · 2^-shift
// / Σ_j 2^(z_ij - m_i). `warps` warps a row: each adds every warps-th split and partner, the first adds up the warps.
INFONCE_KERNEL(finish_gradient, FinishParams) {
    static_assert(list::finish_gradient::SHARED_BYTES == 16 * list::finish_gradient::THREADS, "four sums a thread");
    const uint32_t lane = thread_index() % 32, warp = thread_index() / 32;
    const uint32_t own_split = warp % p.warps;
    const uint64_t row = uint64_t(block_index().x) * (list::finish_gradient::THREADS / 32 / p.warps) + warp / p.warps;
    const bool inside = row < p.rows;
    const bool leads = inside && own_split == 0;
    const float factor = p.coefficient * p.contrast.scale_value() * (p.counted ? load_global(p.counted) : 1.0f);
    float share = 1.0f, maximum = 0.0f;
    if (p.shifted) share /= p.shift ? load_global(p.shift).factor : UNIT_FACTOR;
    if (inside) {
        if (p.factors) share *= load_global(p.factors + row);
        if (p.normalisers) {
            const ScaledSum sum = sum_of_splits(p.normalisers, p.splits, p.rows, row);
            maximum = finite_offset(sum.maximum);
            // W_ij = a_i · 2^(z_ij - m_i) / Σ_j 2^(z_ij - m_i).
            share *= sum.sum == 0.0f ? 0.0f : load_global(p.negatives_mass + p.first_row + row) / sum.sum;
        }
    }
    const uint32_t own_row = p.first_row + uint32_t(inside ? row : 0);
    const bool left_out = p.weights && load_global(p.weights + own_row) == 0.0f;
    const Partner partner(p, own_row);
    const bool quads = p.partners.in_quads(p.dim) && p.gradient.in_quads(p.dim) && (!p.dots || p.rows_of.in_quads(p.dim));
    const Matrix sums_of_splits = {const_cast<float*>(p.sums), nullptr, 4 * uint64_t(p.dim), 0, 0, DTYPE_F32};
    const SharedAddress slots = shared_base() + lane * 16;
    float dot = 0.0f;
    for (uint32_t first = 4 * lane; first - 4 * lane < p.dim; first += 128) {
        const bool holds = inside && first < p.dim;
        float sums[4] = {};
        for (uint32_t split = own_split; holds && split < p.splits; split += p.warps) {
            const uint64_t index = uint64_t(split) * p.rows + row;
            const float weight = p.normalisers ? exp2_fast(load_global(p.normalisers + index).maximum - maximum) : 1.0f;
            float x[4];
            sums_of_splits.load_four(x, index, first, p.dim, quads);
            INFONCE_UNROLL
            for (int i = 0; i < 4; ++i) sums[i] = fma(x[i], weight, sums[i]);
        }
        INFONCE_UNROLL
        for (int i = 0; i < 4; ++i) sums[i] *= share;
        if (p.starts) {
            if (holds) subtract_group(p, own_row, own_split, first, quads, sums);
        } else if (partner.exists && holds && own_split == 0) {
            float k[4];
            p.partners.load_four(k, partner.row, first, p.dim, quads);
            INFONCE_UNROLL
            for (int i = 0; i < 4; ++i) sums[i] = fma(-partner.mass, k[i], sums[i]);
        }
        if (p.warps > 1) {
            block_barrier();
            store_shared(slots + warp * 512, Vector16{{float_bits(sums[0]), float_bits(sums[1]), float_bits(sums[2]), float_bits(sums[3])}});
            block_barrier();
            for (uint32_t other = 1; leads && other < p.warps; ++other) {
                const Vector16 x = load_shared<Vector16>(slots + (warp + other) * 512);
                INFONCE_UNROLL
                for (int i = 0; i < 4; ++i) sums[i] += bits_float(x.x[i]);
            }
        }
        if (!leads || !holds) continue;
        INFONCE_UNROLL
        for (int i = 0; i < 4; ++i) sums[i] = left_out ? 0.0f : sums[i] * factor;
        if (p.dots) {
            float x[4];
            p.rows_of.load_four(x, row, first, p.dim, quads);
            INFONCE_UNROLL
            for (int i = 0; i < 4; ++i) dot = fma(x[i], sums[i], dot);
        }
        if (p.added) {
            float others[4];
            const Matrix added = {const_cast<float*>(p.added), nullptr, 4 * uint64_t(p.dim), 0, 0, DTYPE_F32};
            added.load_four(others, row, first, p.dim, quads);
            INFONCE_UNROLL
            for (int i = 0; i < 4; ++i) sums[i] += others[i];
        }
        if (p.accumulates) {
            float before[4];
            p.gradient.load_four(before, row, first, p.dim, quads);
            INFONCE_UNROLL
            for (int i = 0; i < 4; ++i) sums[i] += before[i];
        }
        p.gradient.store_four(sums, row, first, p.dim, quads);
    }
    if (!p.dots || !leads) return;
    dot = warp_sum(dot);
    if (lane == 0) store_global(p.dots + row, dot);
}

// ---- Loss

struct ReduceParams {
    RowPlanes of_rows;         // null: neither the loss nor ∂φ/∂s is wanted
    RowPlanes of_columns;      // null: columns have no loss
    const float* weights;      // w of row i and of column i; null: 1
    const float* counted;      // of count_positives: row_weight and scale_weight are multiplied by it; null: 1
    const float* dots;         // null: dscale is not wanted
    uint32_t rows, columns;
    double row_weight;
    double dot_weight;         // dscale = Σ dots · dot_weight / s + Σ ∂φ/∂s · scale_weight
    double scale_weight;
    RowRule rule;
    ContrastView contrast;
    float* result;             // loss, dscale
};

// loss = row_weight · Σ φ, dscale = ∂loss/∂s (ReduceParams), summed in f64. One block.
INFONCE_KERNEL(reduce, ReduceParams) {
    struct Row {
        RowLogits logits;
        float weight;
        bool counts;
    };
    const float s = p.contrast.scale_value();
    double sums[3] = {};  // of losses, of dots, of ∂φ/∂s
    const auto add_losses = [&](const RowPlanes& planes, uint32_t rows, auto counts) {
        // A row takes many registers.
        for_own<BLOCK_THREADS, 2>(
            rows, [&](uint32_t i) { return Row{planes.load(i), p.weights ? load_global(p.weights + i) : 1.0f, counts(i)}; },
            [&](const Row& row) {
                const RowValues values = weighted(row_values(p.rule, s, row.logits), row.weight);
                sums[0] += double(values.value);
                if (p.dots && row.counts) sums[2] += double(values.scale);
            });
    };
    // Shards of candidates each compute a dscale, and callers add these. A row's ∂φ/∂s counts where its positive is.
    const auto here = [&](uint32_t i) {
        return p.contrast.rule == POSITIVE_NONE || p.contrast.positive(i) < p.contrast.candidates;
    };
    if (p.of_rows.positive) add_losses(p.of_rows, p.rows, here);
    if (p.of_columns.positive) add_losses(p.of_columns, p.columns, [](uint32_t) { return true; });
    if (p.dots) for_own(p.rows, [&](uint32_t i) { return load_global(p.dots + i); }, [&](float dot) { sums[1] += double(dot); });
    join_block<list::reduce>(sums, [](double a, double b) { return a + b; });
    if (thread_index() != 0) return;
    const double counted = p.counted ? double(load_global(p.counted)) : 1.0;
    store_global(p.result, float(sums[0] * p.row_weight * counted));
    store_global(p.result + 1, float(sums[1] * p.dot_weight / double(s) + sums[2] * p.scale_weight * counted));
}

}  // namespace infonce
