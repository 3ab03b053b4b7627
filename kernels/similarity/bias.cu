// The gradient of the candidates' biases, ∂loss/∂c_j = g·(Σ_i W_ij - Σ c_i over the anchors i whose positive j is): sums
// of the columns of each chunk of stored weights, then the gradient. Sums are f32, in one order. A pointwise rule has one
// bias for all candidates (finish_logit_bias).
#include "ptx/barrier.h"
#include "ptx/global.h"
#include "ptx/shared.h"
#include "similarity/row_blocks.h"
#include "tile/contrast.h"
#include "tile/element.h"
#include "tile/matrix.h"

namespace infonce {

struct ColumnSumParams {
    Matrix weights;       // of the chunk; rows are padded to whole pairs
    uint32_t columns;
    uint32_t accumulate;  // whether to add to `sums`
    float* sums;          // with the weights' shift
};

// Sums 64 columns, two a lane: each warp adds every 32nd row, then one warp adds up the warps.
INFONCE_KERNEL(sum_columns, ColumnSumParams) {
    constexpr uint32_t WARPS = list::sum_columns::THREADS / 32;
    static_assert(list::sum_columns::SHARED_BYTES == 8 * list::sum_columns::THREADS, "two sums a thread");
    const uint32_t lane = thread_index() % 32, warp = thread_index() / 32;
    const uint32_t column = (block_index().x * 32 + lane) * 2;
    const bool inside = column < p.columns;
    Pair sum = {};
    for (uint32_t row = warp; inside && row < p.weights.rows; row += WARPS) {
        sum.x[0] += p.weights.load(row, column);
        sum.x[1] += p.weights.load(row, column + 1);
    }
    store_shared(shared_base() + 8 * thread_index(), sum);
    block_barrier();
    if (warp != 0 || !inside) return;
    INFONCE_UNROLL
    for (uint32_t other = 1; other < WARPS; ++other) {
        const Pair x = load_shared<Pair>(shared_base() + 8 * (other * 32 + lane));
        sum.x[0] += x.x[0];
        sum.x[1] += x.x[1];
    }
    INFONCE_UNROLL
    for (uint32_t side = 0; side < 2; ++side) {
        if (column + side >= p.columns) break;
        const float before = p.accumulate ? load_global(p.sums + column + side) : 0.0f;
        store_global(p.sums + column + side, before + sum.x[side]);
    }
}

struct FinishBiasParams {
    ContrastView contrast;
    const float* sums;         // Σ_i W_ij · 2^shift
    const WeightShift* shift;  // null: 0
    const float* row_mass;     // c of the anchors; null: the weights have the positives already
    // Positives by index: the anchors of candidate j are order[n], starts[j] ≤ n < starts[j + 1].
    const uint32_t* starts;
    const uint32_t* order;
    const float* counted;      // as in FinishParams
    float coefficient;
    uint32_t accumulates;
    Matrix gradient;           // 1 × M
};

// A thread a candidate.
INFONCE_KERNEL(finish_bias, FinishBiasParams) {
    const uint32_t j = block_index().x * list::finish_bias::THREADS + thread_index();
    if (j >= p.contrast.candidates) return;
    float sum = load_global(p.sums + j) * unshifted(p.shift);
    if (p.row_mass && p.starts) {
        const uint32_t end = load_global(p.starts + j + 1);
        float masses = 0.0f;
        for (uint32_t n = load_global(p.starts + j); n < end; ++n) masses += load_global(p.row_mass + load_global(p.order + n));
        sum -= masses;
    } else if (p.row_mass && j < p.contrast.anchors) {
        sum -= load_global(p.row_mass + (p.contrast.rule == POSITIVE_PAIRED ? p.contrast.positive(j) : j));
    }
    sum *= p.coefficient * (p.counted ? load_global(p.counted) : 1.0f);
    if (p.accumulates) sum += p.gradient.load(0, j);
    p.gradient.store(0, j, sum);
}

struct FinishLogitBiasParams {
    const float* sums;         // of every column, Σ_i W_ij · 2^shift
    const WeightShift* shift;  // null: 0
    float coefficient;
    uint32_t columns;
    uint32_t accumulates;
    Matrix gradient;           // 1 × 1
};

// ∂loss/∂b of the bias b of all logits: g·Σ_ij W_ij, in f64. One block.
INFONCE_KERNEL(finish_logit_bias, FinishLogitBiasParams) {
    double sum[1] = {0.0};
    for_own(p.columns, [&](uint32_t j) { return load_global(p.sums + j); }, [&](float x) { sum[0] += double(x); });
    join_block<list::finish_logit_bias>(sum, [](double a, double b) { return a + b; });
    if (thread_index() != 0) return;
    float of = float(sum[0]) * unshifted(p.shift) * p.coefficient;
    if (p.accumulates) of += p.gradient.load(0, 0);
    p.gradient.store(0, 0, of);
}

}  // namespace infonce
