// The fused gradient Σ_j W_ij y_j without a stored matrix: a block owns rows x_i, streams the other side's rows y_j
// past them, and keeps the sum in registers, as attention does with V = K. 4NMD FLOPs.
//
//   owner tile      ROWS × D, resident in shared memory (16 rows a warp)
//   streamed tiles  COLUMNS × D, STAGES of them in flight; each serves the logits and the sum
//
// ONLINE: W_ij = 2^(z_ij - m_i), m_i the running maximum; the pass also sums W_ij, which gives lse⁻_i. KNOWN: W_ij =
// 2^(z_ij - o_i) + 2^(z_ij - o_j), either term or both. The positive has W = 0; finish_gradient subtracts c·k₊.
#pragma once

#include "ptx/barrier.h"
#include "similarity/owned_rows.h"

namespace infonce {

template <class Kernel, Softmax SOFTMAX>
using OwnedByWarps =
    OwnedRows<typename Kernel::T, Kernel::ROWS, Kernel::COLUMNS / 8, Kernel::DIM / 8, SOFTMAX, SOFTMAX == Softmax::KNOWN, 0>;

template <class Kernel, Softmax SOFTMAX>
struct Gradient : OwnedByWarps<Kernel, SOFTMAX> {
    using T = typename Kernel::T;
    static constexpr int ROWS = Kernel::ROWS, COLUMNS = Kernel::COLUMNS, STAGES = Kernel::STAGES;
    static constexpr int THREADS = Kernel::THREADS, SLABS = Kernel::DIM * int(sizeof(T)) / SLAB_BYTES;
    static_assert(STAGES > 1, "one tile is used while others come in");
    static_assert(ROWS == THREADS / 32 * 16, "16 rows a warp");
    static constexpr int OWNER_SLAB = ROWS * SLAB_BYTES;
    static constexpr int STREAMED_SLAB = COLUMNS * SLAB_BYTES;
    static constexpr int STAGE = SLABS * STREAMED_SLAB;
    static_assert(Kernel::SHARED_BYTES == SLABS * OWNER_SLAB + STAGES * STAGE);
    static constexpr int BLOCKS = COLUMNS / 8;          // of 8 columns, of the logits
    static constexpr int SUM_BLOCKS = Kernel::DIM / 8;  // of 8 columns, of the sum
    using Owned = OwnedByWarps<Kernel, SOFTMAX>;
    using Owned::first_owner, Owned::first_tile, Owned::p, Owned::sums, Owned::tiles, Owned::warp;

    SharedAddress owner_slabs, stages;

    INFONCE_DEVICE explicit Gradient(const GradientParams& params) : Owned(params) {
        owner_slabs = shared_base();
        stages = owner_slabs + SLABS * OWNER_SLAB;
        Owned::begin(work_of_block());
        Owned::load_rows();
    }

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
        // One group of copies a tile, possibly empty, so that wait_copies counts tiles.
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
        Owned::write();
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
        if (SOFTMAX == Softmax::ONLINE) {
            float factor[2];
            Owned::weigh_online(weights, first_column, factor);
            Owned::rescale(factor);
        } else {
            const auto column = [&](int block) { return Owned::column(first_column, block, 0); };
            Owned::weigh_known(
                weights, first_column,
                [&](int block) { return Pair{{Owned::streamed_term(column(block)), Owned::streamed_term(column(block) + 1)}}; },
                [&](int block) { return PairOwners{{Owned::owner_of(column(block)), Owned::owner_of(column(block) + 1)}}; });
        }
        accumulate(weights, stage);
    }

    // sums += weights · streamed tile.
    INFONCE_DEVICE void accumulate(const float (&weights)[BLOCKS][4], SharedAddress stage);
};

}  // namespace infonce
