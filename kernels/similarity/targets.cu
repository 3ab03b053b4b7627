// Rows of soft targets t = softmax(u): from stored scores of a chunk, the statistics of each row, and its weights
// P_ij - t_ij, formed in f32 before they are rounded. O(N·M).
#include "ptx/barrier.h"
#include "ptx/global.h"
#include "ptx/math.h"
#include "similarity/row_blocks.h"
#include "tile/contrast.h"
#include "tile/element.h"
#include "tile/matrix.h"
#include "tile/row_rule.h"
#include "tile/softmax.h"

namespace infonce {

struct TargetRowsParams {
    ContrastView contrast;
    const float* scores;         // rows × candidates, ⟨q_i, k_j⟩
    const float* target_scores;  // rows × candidates, ⟨u_i, p_j⟩
    const float* bias;           // c of the targets' logits, in nats; null: 0
    float target_scale;
    const float* target_finite;  // NaN where a row of u is not finite
    const uint32_t* not_finite;  // the second word is set where a candidate, of k or of p, is not finite
    RowPlanes of_rows;           // of the chunk; z₊ is NaN before where an anchor is not finite
    const float* weights;        // w of the rows; null: 1
    Matrix to;                   // rows × M₁₆: w·(P - t)·2^shift, 0 past the last candidate; data null: statistics alone
    const WeightShift* shift;    // null: 0
};

// A block a row. lse = m + log2 Σ 2^(z - m); Σ_j t_ij z_ij and Σ_j t_ij u_ij are the means of the row's and of the targets'
// own logits.
INFONCE_KERNEL(target_rows, TargetRowsParams) {
    using Kernel = list::target_rows;
    const uint32_t row = block_index().x, candidates = p.contrast.candidates;
    const float* scores = p.scores + uint64_t(row) * candidates;
    const float* target_scores = p.target_scores + uint64_t(row) * candidates;
    const float scale2 = p.contrast.scale2(), target_scale2 = p.target_scale * LOG2_E;
    const float given = load_global(p.of_rows.positive + row), of_target = load_global(p.target_finite + row);
    const bool finite = given == given && of_target == of_target && !load_global(p.not_finite + 1);
    // Logits of the row and of its targets, in base 2.
    const auto load = [&](uint32_t j) {
        const float bias = p.bias ? LOG2_E * load_global(p.bias + j) : 0.0f;
        return Pair{{load_global(scores + j) * scale2, fma(load_global(target_scores + j), target_scale2, bias)}};
    };
    float most[2] = {-infinity(), -infinity()};
    for_own<Kernel::THREADS>(candidates, load, [&](const Pair& x) {
        most[0] = larger(most[0], x.x[0]);
        most[1] = larger(most[1], x.x[1]);
    });
    join_block<Kernel>(most, larger);
    block_barrier();
    // Σ 2^z and Σ 2^u; Σ 2^u·z and Σ 2^u·u.
    float sums[4] = {};
    for_own<Kernel::THREADS>(candidates, load, [&](const Pair& x) {
        const float target = exp2_fast(x.x[1] - most[1]);
        sums[0] += exp2_fast(x.x[0] - most[0]);
        sums[1] += target;
        sums[2] = fma(target, x.x[0], sums[2]);
        sums[3] = fma(target, x.x[1], sums[3]);
    });
    join_block<Kernel>(sums, [](float a, float b) { return a + b; });
    const float log_sum = log2_exact(sums[0]), log_target_sum = log2_exact(sums[1]), gap = log2_exact(sums[0] / sums[1]);
    if (thread_index() == 0) {
        const RowPlanes& to = p.of_rows;
        store_global(to.negatives_lse + row, (most[0] + log_sum) * LN_2);
        store_global(to.second_lse + row, (most[1] + log_target_sum) * LN_2);
        store_global(to.positive + row, finite ? sums[2] / sums[1] * LN_2 : quiet_nan());
        store_global(to.negatives_mean + row, sums[3] / sums[1] * LN_2);
    }
    if (!p.to.data) return;
    const float weight = p.weights ? load_global(p.weights + row) : 1.0f;
    const float factor = weight * (p.shift ? load_global(p.shift).factor : 1.0f);
    const uint32_t columns = p.to.row_bytes / element_bytes(p.to.dtype);
    for (uint32_t j = thread_index(); j < columns; j += Kernel::THREADS) {
        float of = 0.0f;
        if (j < candidates && weight != 0.0f) {
            const Pair x = load(j);
            const float z = x.x[0] - most[0], u = x.x[1] - most[1], target = exp2_fast(u - log_target_sum);
            // log2(P/t). Where it is small, P - t has its digits, which the difference of both would lose.
            const float ratio = z - u - gap;
            const float difference =
                ratio < 0.5f ? target * expm1_exact(ratio * LN_2) : exp2_fast(z - log_sum) - target;
            of = finite ? factor * difference : quiet_nan();
        }
        p.to.store(row, j, of);
    }
}

}  // namespace infonce
