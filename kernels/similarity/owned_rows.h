// The fused gradients' Σ_j W_ij y_j of a block's owner rows i, portable and for sm_90a: W of a tile, and the sums.
#pragma once

#include "ptx/global.h"
#include "tile/contrast.h"
#include "tile/element.h"
#include "tile/slab.h"
#include "tile/softmax.h"
#include "tile/work.h"

namespace infonce {

struct GradientParams {
    ContrastView contrast;
    Matrix owner;     // owners × D, the rows x_i
    Matrix streamed;  // streamed rows × D, the rows y_j
    uint32_t dim;     // D
    uint32_t tiles_per_split;  // streamed tiles of a work tile (owner tile, split)
    uint32_t owner_is_anchor;
    const float* owner_offset2;    // KNOWN: offsets o in base 2; null: that term is left out
    const float* streamed_offset2;
    const uint32_t* far;           // share_exponential's word; null where there is one term
    const WeightShift* shift;      // KNOWN, f16
    float* sums;                   // splits × owners × D: Σ_j W_ij y_j · 2^shift
    ScaledSum* normalisers;        // ONLINE: splits × owners, (m_i, Σ_j 2^(z_ij - m_i))
};

enum class Softmax { ONLINE, KNOWN };  // of gradient.h

// The owner rows that are the positives of two neighbouring streamed anchors (asks_streamed).
struct PairOwners {
    uint32_t x[2];
};

// A block's owner rows, 16 a warp: a thread's two rows, the weights of a tile of logits, and the sums. BLOCKS of 8
// columns of logits and SUM_BLOCKS of 8 columns of sums have the layout of mma results. BOTH_TERMS: weights may have
// both terms. One of POLYNOMIAL_EACH exponentials uses the polynomial (exp2_shared_out).
template <class T, int ROWS, int BLOCKS, int SUM_BLOCKS, Softmax SOFTMAX, bool BOTH_TERMS, int POLYNOMIAL_EACH>
struct OwnedRows {
    static constexpr int COLUMNS = 8 * BLOCKS;

    const GradientParams& p;
    uint32_t split, first_owner, first_tile, tiles;
    int lane, warp;
    float scale2;
    float shift;
    bool shares;  // BOTH_TERMS: share_exponential
    float sums[SUM_BLOCKS][4];
    // Of the thread's two rows.
    uint32_t positive[2], excluded[2];
    float owner_term[2];  // weight_term; with offset ∞ (weight 0) where W has no owners' term
    ScaledSum normaliser[2];

    INFONCE_DEVICE explicit OwnedRows(const GradientParams& params) : p(params) {
        lane = thread_index() % 32;
        warp = thread_index() / 32;
    }

    INFONCE_DEVICE void begin(Work work) {
        split = work.split;
        first_owner = work.tile * ROWS;
        const uint32_t all_tiles = (p.streamed.rows + COLUMNS - 1) / COLUMNS;
        first_tile = split * p.tiles_per_split;
        tiles = first_tile < all_tiles ? all_tiles - first_tile : 0;
        if (tiles > p.tiles_per_split) tiles = p.tiles_per_split;
    }

    // What only the threads that hold rows need.
    INFONCE_DEVICE void load_rows() {
        scale2 = p.contrast.scale2();
        find_shift();
        INFONCE_UNROLL
        for (int i = 0; i < SUM_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int j = 0; j < 4; ++j) sums[i][j] = 0.0f;
        INFONCE_UNROLL
        for (int half = 0; half < 2; ++half) {
            const uint32_t row = owner_row(half);
            const bool inside = row < p.owner.rows;
            positive[half] = excluded[half] = 0xffffffffu;
            if (inside) {
                if (!asks_streamed()) positive[half] = p.contrast.positive(row);
                // Candidates past the last anchor are nobody's positive.
                if (positive[half] >= p.streamed.rows) positive[half] = 0xffffffffu;
                excluded[half] = p.contrast.excluded(row);
            }
            const float offset2 = inside && p.owner_offset2 ? load_global(p.owner_offset2 + row) : infinity();
            owner_term[half] = weight_term(shift, offset2, shares);
            normaliser[half] = empty_sum();
        }
    }

    INFONCE_DEVICE void find_shift() {
        shift = SOFTMAX == Softmax::KNOWN ? weight_shift<T>(p.shift) : 0.0f;
        shares = BOTH_TERMS && p.far && share_exponential(p.far, shift);
    }

    // Whether the owners are candidates and positives are given by index: then only a streamed anchor tells its
    // positive. Paired and diagonal positives follow from either side's index.
    INFONCE_DEVICE bool asks_streamed() const {
        return SOFTMAX == Softmax::KNOWN && !p.owner_is_anchor && p.contrast.rule == POSITIVE_INDEX;
    }

    // The thread's first or second row.
    INFONCE_DEVICE uint32_t owner_row(int half) const { return first_owner + warp * 16 + half * 8 + lane / 4; }

    // Column of the thread's entry j (0 to 3) of a block.
    INFONCE_DEVICE uint32_t column(uint32_t first_column, int block, int j) const {
        return first_column + block * 8 + lane % 4 * 2 + j % 2;
    }

    // Whether the tile holds padding, a positive or an exclusion of the thread's rows.
    INFONCE_DEVICE bool holds_exceptions(uint32_t first_column) const {
        bool any = first_column + COLUMNS > p.streamed.rows || asks_streamed();
        INFONCE_UNROLL
        for (int half = 0; half < 2; ++half)
            any |= positive[half] - first_column < uint32_t(COLUMNS) || excluded[half] - first_column < uint32_t(COLUMNS);
        return any;
    }

    // Dot products become 2^(z - m) with the raised running maximum m; rescale then multiplies the sums by `factor`.
    INFONCE_DEVICE void weigh_online(float (&weights)[BLOCKS][4], uint32_t first_column, float (&factor)[2]) {
        if (holds_exceptions(first_column)) mask<false>(weights, first_column, [](int) { return PairOwners{}; });
        float offset[2];
        INFONCE_UNROLL
        for (int half = 0; half < 2; ++half) {
            float largest = -infinity();
            INFONCE_UNROLL
            for (int block = 0; block < BLOCKS; ++block)
                INFONCE_UNROLL
                for (int side = 0; side < 2; ++side) largest = larger(largest, weights[block][2 * half + side]);
            ScaledSum& known = normaliser[half];
            const float raised = larger(known.maximum, quad_maximum(largest) * scale2);
            offset[half] = finite_offset(raised);
            factor[half] = exp2_fast(known.maximum - offset[half]);
            known.maximum = raised;
            known.sum *= factor[half];
        }
        constexpr float SHIFT = Element<T>::SHIFTED ? UNIT_SHIFT : 0.0f;
        constexpr float UNSHIFT = Element<T>::SHIFTED ? 1.0f / UNIT_FACTOR : 1.0f;
        INFONCE_UNROLL
        for (int block = 0; block < BLOCKS; ++block) {
            INFONCE_UNROLL
            for (int j = 0; j < 4; ++j) {
                const float w = exp2_shared_out<POLYNOMIAL_EACH>(
                    4 * block + j, fma(weights[block][j], scale2, SHIFT - offset[j / 2]));
                weights[block][j] = w;
                normaliser[j / 2].sum += w * UNSHIFT;
            }
        }
    }

    INFONCE_DEVICE void rescale(const float (&factor)[2]) {
        INFONCE_UNROLL
        for (int half = 0; half < 2; ++half) {
            if (factor[half] == 1.0f) continue;
            INFONCE_UNROLL
            for (int i = 0; i < SUM_BLOCKS; ++i) {
                sums[i][2 * half] *= factor[half];
                sums[i][2 * half + 1] *= factor[half];
            }
        }
    }

    // weight_term of streamed row `row`; past the last row, with offset ∞.
    INFONCE_DEVICE float streamed_term(uint32_t row) const {
        return weight_term(shift, row < p.streamed.rows ? load_global(p.streamed_offset2 + row) : infinity(), shares);
    }
    // Where asks_streamed: the owner row that is the positive of streamed row `row`.
    INFONCE_DEVICE uint32_t owner_of(uint32_t row) const {
        return row < p.streamed.rows ? load_global(p.contrast.index + row) : 0xffffffffu;
    }

    // `terms(block)`: streamed_term of the thread's two columns of a block; `owners(block)`: owner_of them.
    template <class Streamed, class Owners>
    INFONCE_DEVICE void weigh_known(float (&weights)[BLOCKS][4], uint32_t first_column, const Streamed& terms,
                                    const Owners& owners) {
        if (!p.streamed_offset2)
            weigh_terms<true, false>(weights, first_column, terms, owners);
        else if (!p.owner_offset2)
            weigh_terms<false, true>(weights, first_column, terms, owners);
        else
            weigh_terms<true, true>(weights, first_column, terms, owners);
    }

    template <bool OWNER_TERM, bool STREAMED_TERM, class Streamed, class Owners>
    INFONCE_DEVICE void weigh_terms(float (&weights)[BLOCKS][4], uint32_t first_column, const Streamed& terms,
                                    const Owners& owners) {
        const auto exponential = [](int entry, float x) { return exp2_shared_out<POLYNOMIAL_EACH>(entry, x); };
        // asks_streamed holds only without the owners' term: owners are then the candidates of a one-way loss.
        if (holds_exceptions(first_column)) mask<!OWNER_TERM>(weights, first_column, owners);
        if (OWNER_TERM && STREAMED_TERM && shares) {
            INFONCE_UNROLL
            for (int block = 0; block < BLOCKS; ++block) {
                const Pair factor = terms(block);
                INFONCE_UNROLL
                for (int j = 0; j < 4; ++j) {
                    float& w = weights[block][j];
                    w = exponential(4 * block + j, w * scale2) * (owner_term[j / 2] + factor.x[j % 2]);
                }
            }
            return;
        }
        INFONCE_UNROLL
        for (int block = 0; block < BLOCKS; ++block) {
            Pair offset = {};
            if (STREAMED_TERM) offset = terms(block);
            INFONCE_UNROLL
            for (int j = 0; j < 4; ++j) {
                float& w = weights[block][j];
                const float z = w;
                w = OWNER_TERM ? exponential(4 * block + j, fma(z, scale2, owner_term[j / 2])) : 0.0f;
                if (STREAMED_TERM) w += exponential(4 * block + j, fma(z, scale2, offset.x[j % 2]));
            }
        }
    }

    // Sets the logits of padding, exclusions and positives to −∞. ASKS: asks_streamed may be true.
    template <bool ASKS, class Owners>
    INFONCE_DEVICE void mask(float (&weights)[BLOCKS][4], uint32_t first_column, const Owners& owners) const {
        INFONCE_UNROLL
        for (int block = 0; block < BLOCKS; ++block) {
            PairOwners owner = {{0xffffffffu, 0xffffffffu}};
            if (ASKS && asks_streamed()) owner = owners(block);
            INFONCE_UNROLL
            for (int side = 0; side < 2; ++side) {
                const uint32_t c = column(first_column, block, side);
                INFONCE_UNROLL
                for (int half = 0; half < 2; ++half)
                    if (c >= p.streamed.rows || c == positive[half] || c == excluded[half] ||
                        owner.x[side] == owner_row(half))
                        weights[block][2 * half + side] = -infinity();
            }
        }
    }

    INFONCE_DEVICE void write() {
        const uint64_t split_rows = uint64_t(split) * p.owner.rows;
        INFONCE_UNROLL
        for (int half = 0; half < 2; ++half) {
            const uint32_t row = owner_row(half);
            if (SOFTMAX == Softmax::ONLINE) {
                normaliser[half].sum = quad_sum(normaliser[half].sum);
                if (row < p.owner.rows && lane % 4 == 0) store_global(p.normalisers + split_rows + row, normaliser[half]);
            }
            if (row >= p.owner.rows) continue;
            float* to = p.sums + (split_rows + row) * p.dim;
            INFONCE_UNROLL
            for (int block = 0; block < SUM_BLOCKS; ++block)
                store_pair(to, block * 8 + lane % 4 * 2, p.dim, sums[block][2 * half], sums[block][2 * half + 1]);
        }
    }
};

}  // namespace infonce
