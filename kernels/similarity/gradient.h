// Gradients without a stored matrix: a block owns rows, streams the rows of the other side past
// them, and keeps Σ_j W_ij k_j in registers, as attention does with V = K.
//
//   owner tile      ROWS × D, resident in shared memory (16 rows a warp)
//   streamed tiles  COLUMNS × D, STAGES of them in flight; each serves the logits and the sum
//
// 4NMD FLOPs. The softmax is either taken against a running maximum (ONLINE: nothing is known
// before, lse comes out beside the gradient) or known (KNOWN: W_ij = 2^(z - lse_i) + 2^(z - lse_j),
// either term alone or both). With the softmax known the positive's weight is -σ and stands in the
// tile; ONLINE leaves it out, and what combines the splits puts it in.
#pragma once

#include "ptx/barrier.h"
#include "ptx/global.h"
#include "tile/contrast.h"
#include "tile/element.h"
#include "tile/numbers.h"
#include "tile/slab.h"
#include "tile/softmax.h"

namespace infonce {

struct GradientParams {
    ContrastView contrast;
    GlobalRows owner;
    GlobalRows streamed;
    uint32_t dim;
    uint32_t tiles_per_split;  // streamed tiles of a block; blocks are (owner tile, split)
    uint32_t owner_is_anchor;
    const float* owner_lse2;       // KNOWN; null: that term is left out
    const float* streamed_lse2;
    const float* owner_sigma;      // as many terms as there are lse2
    const float* streamed_sigma;
    const WeightShift* shift;      // KNOWN, f16
    float* sums;                   // splits × owners × D: Σ_j W_ij k_j · 2^shift
    ScaledSum* normalisers;        // ONLINE: splits × owners
};

enum class Softmax { ONLINE, KNOWN };

template <class T, int SLABS, int WARPS, int COLUMNS, int STAGES, Softmax SOFTMAX>
struct Gradient {
    static_assert(STAGES > 1, "one tile is used while others come in");
    static constexpr int THREADS = WARPS * 32;
    static constexpr int ROWS = WARPS * 16;
    static constexpr int OWNER_SLAB = ROWS * SLAB_BYTES;
    static constexpr int STREAMED_SLAB = COLUMNS * SLAB_BYTES;
    static constexpr int STAGE = SLABS * STREAMED_SLAB;
    static constexpr int SHARED_BYTES = SLABS * OWNER_SLAB + STAGES * STAGE;
    static constexpr int NUMBERS = SLAB_BYTES / int(sizeof(T));  // of a slab's row
    static constexpr int BLOCKS = COLUMNS / 8;                   // of 8 columns, of the logits
    static constexpr int SUM_BLOCKS = SLABS * NUMBERS / 8;       // of 8 columns, of the sum

    const GradientParams& p;
    SharedAddress owner_slabs, stages;
    uint32_t first_owner, first_tile, tiles;
    int lane, warp;
    float scale2;
    WeightShift shift;
    float sums[SUM_BLOCKS][4];
    // Of the thread's two rows.
    uint32_t positive[2], excluded[2];
    float owner_lse2[2];
    ScaledSum normaliser[2];

    INFONCE_DEVICE explicit Gradient(const GradientParams& params) : p(params) {
        owner_slabs = shared_base();
        stages = owner_slabs + SLABS * OWNER_SLAB;
        lane = thread_index() % 32;
        warp = thread_index() / 32;
        first_owner = block_index().x * ROWS;
        const uint32_t all_tiles = (p.streamed.rows + COLUMNS - 1) / COLUMNS;
        first_tile = block_index().y * p.tiles_per_split;
        tiles = first_tile < all_tiles ? all_tiles - first_tile : 0;
        if (tiles > p.tiles_per_split) tiles = p.tiles_per_split;
        scale2 = p.contrast.scale2();
        if (SOFTMAX == Softmax::KNOWN) shift = weight_shift<T>(p.shift);
        INFONCE_UNROLL
        for (int i = 0; i < SUM_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int j = 0; j < 4; ++j) sums[i][j] = 0.0f;
        // Pairs and the diagonal read the same both ways; by index, only the anchors know.
        const bool positive_by_index = SOFTMAX == Softmax::KNOWN && !p.owner_is_anchor && p.contrast.rule == POSITIVE_INDEX;
        INFONCE_UNROLL
        for (int half = 0; half < 2; ++half) {
            const uint32_t row = owner_row(half);
            const bool inside = row < p.owner.rows;
            positive[half] = excluded[half] = 0xffffffffu;
            if (inside) {
                if (!positive_by_index) positive[half] = p.contrast.positive(row);
                excluded[half] = p.contrast.excluded(row);
            }
            owner_lse2[half] = inside && p.owner_lse2 ? load_global(p.owner_lse2 + row) : infinity();
            normaliser[half] = empty_sum();
        }
    }

    // The thread's first or second row.
    INFONCE_DEVICE uint32_t owner_row(int half) const { return first_owner + warp * 16 + half * 8 + lane / 4; }

    INFONCE_DEVICE void load_stage(uint32_t tile) {
        const SharedAddress stage = stages + tile % STAGES * STAGE;
        const uint32_t row = (first_tile + tile) * COLUMNS;
        INFONCE_UNROLL
        for (int slab = 0; slab < SLABS; ++slab)
            load_slab<COLUMNS, THREADS>(stage + slab * STREAMED_SLAB, p.streamed, row, slab * SLAB_BYTES);
    }

    INFONCE_DEVICE void run() {
        INFONCE_UNROLL
        for (int slab = 0; slab < SLABS; ++slab)
            load_slab<ROWS, THREADS>(owner_slabs + slab * OWNER_SLAB, p.owner, first_owner, slab * SLAB_BYTES);
        // One group of copies a tile, also where there is none left: the count stays the same.
        constexpr int AHEAD = STAGES - 1;
        INFONCE_UNROLL
        for (int tile = 0; tile < AHEAD; ++tile) {
            if (tile < int(tiles)) load_stage(tile);
            commit_copies();
        }
        for (uint32_t tile = 0; tile < tiles; ++tile) {
            wait_copies<AHEAD - 1>();
            block_barrier();
            if (tile + AHEAD < tiles) load_stage(tile + AHEAD);
            commit_copies();
            process(stages + tile % STAGES * STAGE, (first_tile + tile) * COLUMNS);
        }
        wait_copies<0>();
        write();
    }

    INFONCE_DEVICE void process(SharedAddress stage, uint32_t first_column) {
        float weights[BLOCKS][4];
        INFONCE_UNROLL
        for (int i = 0; i < BLOCKS; ++i)
            INFONCE_UNROLL
            for (int j = 0; j < 4; ++j) weights[i][j] = 0.0f;
        INFONCE_UNROLL
        for (int slab = 0; slab < SLABS; ++slab) {
            INFONCE_UNROLL
            for (int step = 0; step < 4; ++step) {
                uint32_t a[4];
                load_left(a, owner_slabs + slab * OWNER_SLAB, warp * 16, step);
                INFONCE_UNROLL
                for (int block = 0; block < BLOCKS; block += 2) {
                    uint32_t low[2], high[2];
                    load_right(low, high, stage + slab * STREAMED_SLAB, block * 8, step);
                    Element<T>::multiply(weights[block], a, low);
                    Element<T>::multiply(weights[block + 1], a, high);
                }
            }
        }
        if (SOFTMAX == Softmax::ONLINE)
            weigh_online(weights, first_column);
        else
            weigh_known(weights, first_column);
        accumulate(weights, stage);
    }

    // Column of the thread's entry j (0 to 3) of a block.
    INFONCE_DEVICE uint32_t column(uint32_t first_column, int block, int j) const {
        return first_column + block * 8 + lane % 4 * 2 + j % 2;
    }

    INFONCE_DEVICE void weigh_online(float (&weights)[BLOCKS][4], uint32_t first_column) {
        float maximum[2] = {-infinity(), -infinity()};
        INFONCE_UNROLL
        for (int block = 0; block < BLOCKS; ++block) {
            INFONCE_UNROLL
            for (int j = 0; j < 4; ++j) {
                const uint32_t c = column(first_column, block, j);
                float z = weights[block][j] * scale2;
                if (c >= p.streamed.rows || c == positive[j / 2] || c == excluded[j / 2]) z = -infinity();
                weights[block][j] = z;
                maximum[j / 2] = larger(maximum[j / 2], z);
            }
        }
        float offset[2];
        INFONCE_UNROLL
        for (int half = 0; half < 2; ++half) {
            const float found = quad_maximum(maximum[half]);
            ScaledSum& known = normaliser[half];
            const float raised = larger(known.maximum, found);
            offset[half] = finite_offset(raised);
            const float factor = exp2_fast(known.maximum - offset[half]);
            known.maximum = raised;
            known.sum *= factor;
            if (factor != 1.0f) {
                INFONCE_UNROLL
                for (int i = 0; i < SUM_BLOCKS; ++i) {
                    sums[i][2 * half] *= factor;
                    sums[i][2 * half + 1] *= factor;
                }
            }
        }
        constexpr float SHIFT = Element<T>::SHIFTED ? UNIT_SHIFT : 0.0f;
        constexpr float UNSHIFT = Element<T>::SHIFTED ? 1.0f / UNIT_FACTOR : 1.0f;
        INFONCE_UNROLL
        for (int block = 0; block < BLOCKS; ++block) {
            INFONCE_UNROLL
            for (int j = 0; j < 4; ++j) {
                const float w = exp2_fast(weights[block][j] - offset[j / 2] + SHIFT);
                weights[block][j] = w;
                normaliser[j / 2].sum += w * UNSHIFT;
            }
        }
    }

    INFONCE_DEVICE void weigh_known(float (&weights)[BLOCKS][4], uint32_t first_column) {
        if (!p.streamed_lse2)
            weigh_terms<true, false>(weights, first_column);
        else if (!p.owner_lse2)
            weigh_terms<false, true>(weights, first_column);
        else
            weigh_terms<true, true>(weights, first_column);
    }

    template <bool OWNER_TERM, bool STREAMED_TERM>
    INFONCE_DEVICE void weigh_terms(float (&weights)[BLOCKS][4], uint32_t first_column) {
        INFONCE_UNROLL
        for (int block = 0; block < BLOCKS; ++block) {
            INFONCE_UNROLL
            for (int side = 0; side < 2; ++side) {
                const uint32_t c = column(first_column, block, side);
                const bool inside = c < p.streamed.rows;
                const float lse2 = STREAMED_TERM && inside ? load_global(p.streamed_lse2 + c) : infinity();
                // Without the owners' term they are the candidates of a one-way loss.
                const bool by_index = !OWNER_TERM && p.contrast.rule == POSITIVE_INDEX;
                const uint32_t owner = by_index && inside ? p.contrast.positive(c) : 0xfffffffeu;
                INFONCE_UNROLL
                for (int half = 0; half < 2; ++half) {
                    float& w = weights[block][2 * half + side];
                    const float z = w * scale2 + shift.shift;
                    w = OWNER_TERM ? exp2_fast(z - owner_lse2[half]) : 0.0f;
                    if (STREAMED_TERM) w += exp2_fast(z - lse2);
                    if (!inside || c == excluded[half]) {
                        w = 0.0f;
                    } else if (c == positive[half] || owner_row(half) == owner) {
                        // One place in a row of all tiles.
                        float sigma = OWNER_TERM ? load_global(p.owner_sigma + owner_row(half)) : 0.0f;
                        if (STREAMED_TERM) sigma += load_global(p.streamed_sigma + c);
                        w = -shift.factor * sigma;
                    }
                }
            }
        }
    }

    // sums += weights · streamed tile.
    INFONCE_DEVICE void accumulate(const float (&weights)[BLOCKS][4], SharedAddress stage);

    INFONCE_DEVICE void write() {
        const uint64_t split_rows = uint64_t(block_index().y) * p.owner.rows;
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
