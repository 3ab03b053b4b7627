// The triplet loss with given positives and negatives, row by row: each anchor's loss max(0, margin + ‖q - k₊‖² -
// ‖q - k₋‖²) and its gradient (triplet_rows); the gradient of each candidate, a sum over the anchors that name it
// (triplet_gradient); the sum of the losses (triplet_loss). O((N + M)·D).
#include "ptx/math.h"
#include "similarity/row_blocks.h"
#include "tile/matrix.h"

namespace infonce {

struct TripletParams {
    Matrix anchors, candidates;  // q, k
    Matrix gradient;             // of the anchors (triplet_rows; data null: not wanted), of the candidates
    const uint32_t *positives, *negatives;  // a candidate for each anchor; as many as there are or more: none
    float* losses;                          // of each anchor
    // The anchors that name candidate j as positive are positive_order[n], starts[j] ≤ n < starts[j + 1]; as negative
    // likewise.
    const uint32_t *positive_starts, *positive_order, *negative_starts, *negative_order;
    uint32_t dim;
    float margin;
    float factor;          // 2 · upstream · w
    uint32_t accumulates;  // whether to add to the gradient that is there
    uint32_t of_anchors;   // triplet_gradient: whether the candidates are the anchors
    double weight;         // w
    float* result;         // Σ w · loss
};

// An anchor's positive and negative.
struct TripletPair {
    uint32_t positive, negative;
    bool exists;

    INFONCE_DEVICE TripletPair(const TripletParams& p, uint64_t anchor) {
        positive = load_global(p.positives + anchor);
        negative = load_global(p.negatives + anchor);
        exists = positive < p.candidates.rows && negative < p.candidates.rows;
    }
    // Adds k₋ - k₊, elements `first` to `first` + 3: half of the gradient of the anchor's loss, where that is not 0.
    INFONCE_DEVICE void add(const TripletParams& p, uint32_t first, bool quads, float (&sums)[4]) const {
        float of_positive[4], of_negative[4];
        p.candidates.load_four(of_positive, positive, first, p.dim, quads);
        p.candidates.load_four(of_negative, negative, first, p.dim, quads);
        INFONCE_UNROLL
        for (int i = 0; i < 4; ++i) sums[i] += of_negative[i] - of_positive[i];
    }
};

// Stores factor · sums, or adds it to what is there.
INFONCE_DEVICE void store_gradient(const TripletParams& p, uint64_t row, uint32_t first, bool quads, float (&sums)[4]) {
    float before[4] = {};
    if (p.accumulates) p.gradient.load_four(before, row, first, p.dim, quads);
    INFONCE_UNROLL
    for (int i = 0; i < 4; ++i) sums[i] = fma(p.factor, sums[i], before[i]);
    p.gradient.store_four(sums, row, first, p.dim, quads);
}

// The loss of an anchor, NaN if an element of its rows is not finite; and dq = factor · (k₋ - k₊). A warp a row.
INFONCE_KERNEL(triplet_rows, TripletParams) {
    const uint64_t row = warp_row<list::triplet_rows>();
    if (row >= p.anchors.rows) return;
    const uint32_t lane = thread_index() % 32;
    const TripletPair pair(p, row);
    const bool quads = p.anchors.in_quads(p.dim) && p.candidates.in_quads(p.dim);
    float to_positive = 0.0f, to_negative = 0.0f, zero = 0.0f;
    for (uint32_t d = 4 * lane; pair.exists && d < p.dim; d += 128) {
        float q[4], positive[4], negative[4];
        p.anchors.load_four(q, row, d, p.dim, quads);
        p.candidates.load_four(positive, pair.positive, d, p.dim, quads);
        p.candidates.load_four(negative, pair.negative, d, p.dim, quads);
        INFONCE_UNROLL
        for (int i = 0; i < 4; ++i) {
            const float x = q[i] - positive[i], y = q[i] - negative[i];
            to_positive = fma(x, x, to_positive);
            to_negative = fma(y, y, to_negative);
            zero += 0.0f * q[i] + 0.0f * positive[i] + 0.0f * negative[i];
        }
    }
    to_positive = warp_sum(to_positive);
    to_negative = warp_sum(to_negative);
    zero = warp_sum(zero);
    float loss = p.margin + (to_positive - to_negative);
    if (!pair.exists || loss <= 0.0f) loss = 0.0f;
    if (zero != 0.0f) loss = quiet_nan();
    if (lane == 0) store_global(p.losses + row, loss);
    if (!p.gradient.data) return;
    const bool stores_quads = quads && p.gradient.in_quads(p.dim);
    for (uint32_t d = 4 * lane; d < p.dim; d += 128) {
        float sums[4] = {};
        if (loss != 0.0f) pair.add(p, d, stores_quads, sums);
        store_gradient(p, row, d, stores_quads, sums);
    }
}

// Adds sign · (k - q), elements `first` to `first` + 3, for every anchor of a candidate's group that has a loss, in the
// anchors' order. Loads of TOGETHER anchors are in flight.
INFONCE_DEVICE void add_group(const TripletParams& p, const uint32_t* starts, const uint32_t* order, uint64_t candidate,
                              float sign, const float (&k)[4], uint32_t first, bool quads, float (&sums)[4]) {
    constexpr uint32_t TOGETHER = 4;
    const uint64_t end = load_global(starts + candidate + 1);
    for (uint64_t n = load_global(starts + candidate); n < end; n += TOGETHER) {
        uint32_t anchor[TOGETHER];
        float loss[TOGETHER], q[TOGETHER][4];
        INFONCE_UNROLL
        for (uint32_t i = 0; i < TOGETHER; ++i) anchor[i] = load_global(order + (n + i < end ? n + i : n));
        INFONCE_UNROLL
        for (uint32_t i = 0; i < TOGETHER; ++i) loss[i] = n + i < end ? load_global(p.losses + anchor[i]) : 0.0f;
        INFONCE_UNROLL
        for (uint32_t i = 0; i < TOGETHER; ++i) p.anchors.load_four(q[i], anchor[i], first, p.dim, quads);
        INFONCE_UNROLL
        for (uint32_t i = 0; i < TOGETHER; ++i)
            INFONCE_UNROLL
            for (int j = 0; j < 4; ++j)
                sums[j] = loss[i] != 0.0f ? fma(sign, k[j] - q[i][j], sums[j]) : sums[j];
    }
}

// dk = factor · (Σ (k - q) over the anchors whose positive it is + Σ (q - k) over those whose negative it is). Where the
// candidates are the anchors, also the term of triplet_rows. A warp four elements a lane of a row.
INFONCE_KERNEL(triplet_gradient, TripletParams) {
    const uint32_t parts = (p.dim + WARP_ELEMENTS - 1) / WARP_ELEMENTS;
    const uint64_t warp = warp_row<list::triplet_gradient>(), row = warp / parts;
    const uint32_t first = uint32_t(warp % parts) * WARP_ELEMENTS + thread_index() % 32 * 4;
    if (row >= p.candidates.rows || first >= p.dim) return;
    const bool quads = p.anchors.in_quads(p.dim) && p.candidates.in_quads(p.dim) && p.gradient.in_quads(p.dim);
    float k[4], sums[4] = {};
    p.candidates.load_four(k, row, first, p.dim, quads);
    if (p.of_anchors && load_global(p.losses + row) != 0.0f) TripletPair(p, row).add(p, first, quads, sums);
    add_group(p, p.positive_starts, p.positive_order, row, 1.0f, k, first, quads, sums);
    add_group(p, p.negative_starts, p.negative_order, row, -1.0f, k, first, quads, sums);
    store_gradient(p, row, first, quads, sums);
}

// Σ w · loss, in f64. One block.
INFONCE_KERNEL(triplet_loss, TripletParams) {
    double sum[1] = {};
    const auto load = [&](uint32_t i) { return load_global(p.losses + i); };
    for_own(p.anchors.rows, load, [&](float loss) { sum[0] += double(loss); });
    join_block<list::triplet_loss>(sum, [](double a, double b) { return a + b; });
    if (thread_index() == 0) store_global(p.result, float(sum[0] * p.weight));
}

}  // namespace infonce
