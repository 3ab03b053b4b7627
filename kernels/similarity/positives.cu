// Row by row before the tile loops: z₊ = s⟨q_i, k₊⟩ and ‖x‖² (positives), s·max‖q‖·max‖k‖ ≥ |z| (bound_logits), log
// of the mean of e^(z₊/(s·σ)) (mean_positives), each anchor's positive, each candidate's anchors. O((N + M)·D).
#include "ptx/global.h"
#include "ptx/math.h"
#include "similarity/row_blocks.h"
#include "tile/contrast.h"
#include "tile/matrix.h"
#include "tile/softmax.h"

namespace infonce {

// ---- Positive logits

struct PositivesParams {
    ContrastView contrast;
    Matrix anchors, candidates, own_keys;  // own_keys: MoCo's positives; data null otherwise
    uint32_t dim;
    uint32_t* not_finite;  // two flags, zero before: of an anchor or its positive, of a candidate not finite
    const float* bias;     // c of the candidates; null: 0
    float* positive;       // z₊ of each anchor, -∞ without one
    float* square_norms;   // of the anchors, then of the candidates
};

// ‖k‖² of WARP_CANDIDATES candidates. `zero` is 0 if all elements are finite, else NaN.
INFONCE_DEVICE void candidate_norms(const PositivesParams& p, uint64_t first) {
    const uint32_t lane = thread_index() % 32, last = p.contrast.candidates - 1;
    const bool quads = p.candidates.in_quads(p.dim);
    float zero[WARP_CANDIDATES] = {}, square[WARP_CANDIDATES] = {};
    for (uint32_t d = 4 * lane; d < p.dim; d += 128) {
        float k[WARP_CANDIDATES][4];
        INFONCE_UNROLL
        for (int r = 0; r < WARP_CANDIDATES; ++r)
            p.candidates.load_four(k[r], first + r < last ? first + r : last, d, p.dim, quads);
        INFONCE_UNROLL
        for (int r = 0; r < WARP_CANDIDATES; ++r) {
            INFONCE_UNROLL
            for (int i = 0; i < 4; ++i) {
                zero[r] += 0.0f * k[r][i];
                square[r] = fma(k[r][i], k[r][i], square[r]);
            }
        }
    }
    INFONCE_UNROLL
    for (int r = 0; r < WARP_CANDIDATES; ++r) {
        zero[r] = warp_sum(zero[r]);
        square[r] = warp_sum(square[r]);
        if (lane != 0 || first + r > last) continue;
        store_global(p.square_norms + p.contrast.anchors + first + r, square[r]);
        if (zero[r] != 0.0f) store_global(p.not_finite + 1, 1u);
    }
}

// z₊ and ‖q‖², a warp an anchor; then ‖k‖², a warp WARP_CANDIDATES candidates.
INFONCE_KERNEL(positives, PositivesParams) {
    const uint32_t lane = thread_index() % 32;
    const uint64_t row = warp_row<list::positives>();
    const uint32_t anchors = p.contrast.anchors;
    if (row >= anchors) {
        const uint64_t first = (row - anchors) * WARP_CANDIDATES;
        if (first < p.contrast.candidates) candidate_norms(p, first);
        return;
    }
    const bool own = p.own_keys.data != nullptr;
    const Matrix& keys = own ? p.own_keys : p.candidates;
    const uint64_t key = own ? row : p.contrast.positive(uint32_t(row));
    const bool has_key = own || (key < p.contrast.candidates && key != p.contrast.excluded(uint32_t(row)));
    const bool quads = p.anchors.in_quads(p.dim) && keys.in_quads(p.dim);
    float product = 0.0f, zero = 0.0f, square = 0.0f;
    for (uint32_t d = 4 * lane; d < p.dim; d += 128) {
        float q[4], k[4] = {};
        p.anchors.load_four(q, row, d, p.dim, quads);
        if (has_key) keys.load_four(k, key, d, p.dim, quads);
        INFONCE_UNROLL
        for (int i = 0; i < 4; ++i) {
            product = fma(q[i], k[i], product);
            square = fma(q[i], q[i], square);
            zero += 0.0f * q[i] + 0.0f * k[i];
        }
    }
    product = warp_sum(product);
    square = warp_sum(square);
    zero = warp_sum(zero);
    if (lane != 0) return;
    const bool finite = zero == 0.0f;
    const float bias = has_key && p.bias ? load_global(p.bias + key) : 0.0f;
    const float positive = has_key ? fma(p.contrast.scale_value(), product, bias) : -infinity();
    store_global(p.positive + row, finite ? positive : quiet_nan());
    store_global(p.square_norms + row, square);
    if (!finite) store_global(p.not_finite, 1u);
}

struct BoundParams {
    ContrastView contrast;
    const float* square_norms;
    const float* positive;  // z₊, in nats
    float largest;          // the bound L holds up to this, in base 2
    float above;            // the offset is max(L - above, 0)
    LogitBound* bound;
};

// L = s·max‖q‖·max‖k‖ ≥ |z_ij|. With L ≤ 80 in base 2 a sum of 2^z over 2^30 candidates lies between 2^-80 and 2^110.
// If the largest norms are between 2^-16 and 2^16, such sums times rows stay below 2^127. `ExponentRange`
// (src/launch/positives.rs) chooses `largest` and `above`. MoCo's positive is no candidate, so |z₊| is compared with
// `largest`, too. One block.
INFONCE_KERNEL(bound_logits, BoundParams) {
    struct Anchor {
        float square, positive;
    };
    // Squares: the largest anchor's, the largest candidate's, minus the smallest candidate's; and the largest |z₊|.
    float most[4] = {0.0f, 0.0f, -infinity(), 0.0f};
    for_own(
        p.contrast.anchors, [&](uint32_t i) { return Anchor{load_global(p.square_norms + i), load_global(p.positive + i)}; },
        [&](const Anchor& anchor) {
            most[0] = larger(most[0], anchor.square);
            if (anchor.positive != -infinity()) most[3] = larger(most[3], absolute(anchor.positive));
        });
    for_own(
        p.contrast.candidates, [&](uint32_t i) { return load_global(p.square_norms + p.contrast.anchors + i); },
        [&](float square) {
            most[1] = larger(most[1], square);
            most[2] = larger(most[2], -square);
        });
    join_block<list::bound_logits>(most, larger);
    if (thread_index() != 0) return;
    constexpr float FAR = 65536.0f;
    const auto usual = [](float norm) { return norm >= 1.0f / FAR && norm <= FAR; };
    const float anchors = sqrt_exact(most[0]), candidates = sqrt_exact(most[1]), shortest = sqrt_exact(-most[2]);
    const float bound = absolute(p.contrast.scale2()) * anchors * candidates;
    const bool holds = usual(anchors) && usual(candidates) && larger(bound, most[3] * LOG2_E) <= p.largest;
    const float lengths = log2_exact(candidates) - log2_exact(shortest);
    store_global(p.bound, LogitBound{uint32_t(holds), larger(bound - p.above, 0.0f), lengths, 0});
}

struct MeanPositivesParams {
    ContrastView contrast;
    const float* positive;  // z₊, in nats
    float inverse;          // 1/σ
    float* log_mean;
};

// log of the mean of e^(z₊/(s·σ)) over the rows that have a positive; NaN if one of them is NaN. One block.
INFONCE_KERNEL(mean_positives, MeanPositivesParams) {
    const float factor = p.inverse / p.contrast.scale_value();
    const auto load = [&](uint32_t i) { return load_global(p.positive + i); };
    float most[1] = {-infinity()};
    for_own(p.contrast.anchors, load, [&](float positive) { most[0] = larger_or_nan(most[0], positive); });
    join_block<list::mean_positives>(most, larger_or_nan);
    double sums[2] = {};  // of exponentials, of rows
    for_own(p.contrast.anchors, load, [&](float positive) {
        if (positive == -infinity()) return;
        sums[0] += double(exp_exact((positive - most[0]) * factor));
        sums[1] += 1.0;
    });
    block_barrier();
    join_block<list::mean_positives>(sums, [](double a, double b) { return a + b; });
    if (thread_index() == 0) store_global(p.log_mean, most[0] * factor + log_exact(float(sums[0] / sums[1])));
}

struct CountParams {
    const float* positive;  // z₊
    const float* weights;   // w of the rows; null: 1
    uint32_t rows;
    float* counted;
};

// N over the number of rows with a positive and a weight other than 0; 0 if there are none. One block.
INFONCE_KERNEL(count_positives, CountParams) {
    struct Row {
        float positive, weight;
    };
    uint32_t count[1] = {};
    for_own(
        p.rows, [&](uint32_t i) { return Row{load_global(p.positive + i), p.weights ? load_global(p.weights + i) : 1.0f}; },
        [&](const Row& row) { count[0] += row.positive != -infinity() && row.weight != 0.0f; });
    join_block<list::count_positives>(count, [](uint32_t a, uint32_t b) { return a + b; });
    if (thread_index() == 0) store_global(p.counted, count[0] ? float(double(p.rows) / double(count[0])) : 0.0f);
}

// ---- Positives by index

struct OffsetParams {
    int64_t offset;
    uint32_t anchors, candidates;
    uint32_t* index;
};

// index_i = i + offset; 0xffffffff if that is no candidate.
INFONCE_KERNEL(offset_positives, OffsetParams) {
    const uint32_t i = block_index().x * list::offset_positives::THREADS + thread_index();
    if (i >= p.anchors) return;
    const int64_t at = int64_t(i) + p.offset;
    store_global(p.index + i, at >= 0 && at < int64_t(p.candidates) ? uint32_t(at) : 0xffffffffu);
}

struct LabelParams {
    const uint32_t *anchors, *candidates;  // a label each
    uint32_t anchor_count, candidate_count;
    uint32_t* index;
};

// index_i = the first candidate with anchor i's label; 0xffffffff if there is none or i has NO_LABEL. A warp an anchor.
INFONCE_KERNEL(labelled_positives, LabelParams) {
    constexpr uint32_t NO_LABEL = 0xffffffffu, TOGETHER = 8;
    const uint64_t row = warp_row<list::labelled_positives>();
    if (row >= p.anchor_count) return;
    const uint32_t lane = thread_index() % 32, label = load_global(p.anchors + row);
    const uint64_t end = label == NO_LABEL ? 0 : p.candidate_count;
    uint32_t found = 0;  // ~j, which is largest for the first j
    for (uint64_t begin = 0; begin < end && found == 0; begin += TOGETHER * 32) {
        uint32_t of_candidate[TOGETHER];
        INFONCE_UNROLL
        for (uint32_t i = 0; i < TOGETHER; ++i) {
            const uint64_t j = begin + i * 32 + lane;
            of_candidate[i] = j < end ? load_global(p.candidates + j) : NO_LABEL;
        }
        INFONCE_UNROLL
        for (uint32_t i = TOGETHER; i-- > 0;)
            if (of_candidate[i] == label) found = ~uint32_t(begin + i * 32 + lane);
        found = warp_maximum(found);
    }
    if (lane == 0) store_global(p.index + row, ~found);
}

struct GroupParams {
    const uint32_t* index;
    uint32_t anchors, candidates;
    uint32_t passes;   // passes · DIGIT_BITS is at least the bits of `candidates`
    uint32_t* order;   // two buffers: the last pass writes the first
    uint32_t* other;
    uint32_t* starts;  // candidates + 1
};

// The sort key of an anchor: its positive; M, the largest key, without one.
INFONCE_DEVICE uint32_t group_of(const GroupParams& p, uint32_t anchor) {
    const uint32_t positive = load_global(p.index + anchor);
    return positive < p.candidates ? positive : p.candidates;
}

// Exclusive prefix sums of x over the block's threads. `slots`: a word a warp.
INFONCE_DEVICE uint32_t sum_before(uint32_t x, SharedAddress slots) {
    const uint32_t lane = thread_index() % 32, warp = thread_index() / 32;
    uint32_t before = 0;
    INFONCE_UNROLL
    for (uint32_t mask = 1; mask < 32; mask *= 2) {
        const uint32_t others = shuffle_xor(x, int(mask));
        if (lane & mask) before += others;
        x += others;
    }
    if (lane == 0) store_shared(slots + 4 * warp, x);
    block_barrier();
    const uint32_t of_warp = load_shared<uint32_t>(slots + 4 * lane);
    return before + warp_sum(lane < warp ? of_warp : 0u);
}

constexpr uint32_t DIGITS = 1 << DIGIT_BITS;
static_assert(list::group_anchors::THREADS == BLOCK_THREADS &&
              list::group_anchors::SHARED_BYTES == 4 * (DIGITS * BLOCK_THREADS + BLOCK_WARPS));

// Anchors in the order of their positives, stable: a radix sort from the lowest digit. Each thread counts the digits of
// consecutive anchors and places them behind the anchors of the threads before. One block, so that there are no atomics
// and the order is the same each time.
INFONCE_KERNEL(group_anchors, GroupParams) {
    const uint32_t thread = thread_index(), each = (p.anchors + BLOCK_THREADS - 1) / BLOCK_THREADS;
    const uint64_t begin = uint64_t(each) * thread;
    const uint32_t first = uint32_t(begin < p.anchors ? begin : p.anchors);
    const uint32_t end = p.anchors - first < each ? p.anchors : first + each;
    // Counters lie by digit, then by thread.
    const auto counter = [&](uint32_t digit) { return shared_base() + 4 * (digit * BLOCK_THREADS + thread); };
    const SharedAddress own_sums = shared_base() + 4 * DIGITS * thread;
    const SharedAddress slots = shared_base() + 4 * DIGITS * BLOCK_THREADS;
    for (uint32_t pass = 0; pass < p.passes; ++pass) {
        const bool to_order = (p.passes - pass) % 2 == 1;
        uint32_t* const to = to_order ? p.order : p.other;
        const uint32_t* const from = to_order ? p.other : p.order;
        const auto anchor_at = [&](uint32_t n) { return pass == 0 ? n : load_global(from + n); };
        const auto counter_of = [&](uint32_t anchor) {
            return counter(group_of(p, anchor) >> (pass * DIGIT_BITS) & (DIGITS - 1));
        };
        INFONCE_UNROLL
        for (uint32_t digit = 0; digit < DIGITS; ++digit) store_shared(counter(digit), 0u);
        for (uint32_t n = first; n < end; ++n) {
            const SharedAddress at = counter_of(anchor_at(n));
            store_shared(at, load_shared<uint32_t>(at) + 1);
        }
        block_barrier();
        uint32_t counts[DIGITS], sum = 0;
        INFONCE_UNROLL
        for (uint32_t i = 0; i < DIGITS; ++i) sum += counts[i] = load_shared<uint32_t>(own_sums + 4 * i);
        uint32_t place = sum_before(sum, slots);
        INFONCE_UNROLL
        for (uint32_t i = 0; i < DIGITS; ++i) {
            store_shared(own_sums + 4 * i, place);
            place += counts[i];
        }
        block_barrier();
        for (uint32_t n = first; n < end; ++n) {
            const uint32_t anchor = anchor_at(n);
            const SharedAddress at = counter_of(anchor);
            const uint32_t target = load_shared<uint32_t>(at);
            store_global(to + target, anchor);
            store_shared(at, target + 1);
        }
        // The next pass reads what other threads have placed, and resets their counters.
        block_barrier();
    }
}

// start_j, where the anchors of candidate j start in `order`; start_M is that of the anchors without a positive.
INFONCE_KERNEL(find_groups, GroupParams) {
    const uint32_t group = block_index().x * list::find_groups::THREADS + thread_index();
    if (group > p.candidates) return;
    uint32_t low = 0, high = p.anchors;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (group_of(p, load_global(p.order + middle)) < group)
            low = middle + 1;
        else
            high = middle;
    }
    store_global(p.starts + group, low);
}

}  // namespace infonce
