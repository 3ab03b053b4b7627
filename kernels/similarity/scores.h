// The portable tile loop QKᵀ: 128 × 128 dot products of any D in the registers of a block, tile after tile along the
// candidates. An epilogue scales and uses each tile. 2NMD FLOPs, 128/b FLOPs a byte for elements of b bytes.
//
//   8 warps as 4 × 2, 32 × 64 logits each; slabs of 128 bytes of both sides, STAGES in flight
#pragma once

#include "ptx/barrier.h"
#include "ptx/global.h"
#include "tile/contrast.h"
#include "tile/element.h"
#include "tile/slab.h"
#include "tile/softmax.h"
#include "tile/work.h"

namespace infonce {

struct ListedScore;

struct ScoresParams {
    ContrastView contrast;
    Matrix anchors;          // of the chunk
    Matrix candidates;
    uint32_t first_anchor;   // index of the chunk's first row among all anchors
    uint32_t tiles_per_split;  // candidate tiles of a work tile (anchor tile, split)
    const LogitBound* bound;  // statistics, exponentials: of bound_logits; null: there is none
    const uint32_t* unless;  // if set, the kernel does nothing; null: never
    // Statistics, exponentials.
    ScaledSum* rows;         // splits × anchors of the chunk
    ScaledSum* columns;      // partial sums × candidates
    // Number of steps of the walk (TilesOfWork), and the first. 0 steps: no walk, row tiles take all candidates.
    uint32_t steps, first_step;
    // Number of steps (without a walk, of blocks of rows) whose tiles have column sums, and the first. 0: no such sums.
    uint32_t summed, first_summed;
    const float* negatives_lse;  // exponentials without a bound: lse⁻ of the chunk's rows, in nats
    // Weights.
    const float* row_offset2;     // offsets o in base 2, of the chunk's rows
    const float* column_offset2;  // of the candidates; null: that term is left out
    const uint32_t* far;     // share_exponential's word; null where there is one term
    const WeightShift* shift;  // f16; else null
    Matrix weights;          // anchors of the chunk × candidates, padded to a multiple of 16, in T
    // Scores.
    float* scores;           // anchors of the chunk × candidates, not scaled
    // Lists of the best scores (best_lists.h).
    ListedScore* lists;
    uint32_t* lengths;
    uint32_t k;              // a row's k best are listed
    uint32_t growth;         // lists are pruned after t tiles, and again after t·(1 + growth/4)
};

// Whether the launch does nothing; the same for all blocks.
INFONCE_DEVICE bool is_needless(const ScoresParams& p) { return p.unless && load_global(p.unless); }

// weight_term of candidate c, or of the last one past the end: logits there are −∞, and no load waits for a branch.
INFONCE_DEVICE float column_term(const ScoresParams& p, uint32_t c, float shift, bool shares) {
    const uint32_t last = p.candidates.rows - 1;
    return weight_term(shift, load_global(p.column_offset2 + (c < last ? c : last)), shares);
}

// The tile, as epilogues see it: its size, and its division among warps.
struct ScoresTile {
    static constexpr int ROWS = 128, COLUMNS = 128, WARPS = 8, THREADS = WARPS * 32, STAGES = 3;
    static constexpr int WARPS_DOWN = 4, WARPS_ACROSS = 2;
    static constexpr int WARP_ROWS = ROWS / WARPS_DOWN, WARP_COLUMNS = COLUMNS / WARPS_ACROSS;
    static constexpr int ROW_BLOCKS = WARP_ROWS / 16, COLUMN_BLOCKS = WARP_COLUMNS / 8;
    static constexpr int SLAB = ROWS * SLAB_BYTES;
    static constexpr int STAGE = 2 * SLAB;
    static constexpr int SHARED_BYTES = STAGES * STAGE;
    static constexpr int POLYNOMIAL_EACH = 0;  // EACH of exp2_shared_out
    static constexpr bool BRINGS_COLUMN_TERMS = false;  // whether one warp loads all column_term into shared memory
    // A barrier of the threads that hold the tile.
    INFONCE_DEVICE static void synchronise() { block_barrier(); }
    // How warps exchange partial column sums. open_columns returns a buffer that no product uses any more;
    // close_columns calls `sum_up(index)` for every even index of a column once all sums are written.
    INFONCE_DEVICE static SharedAddress open_columns(SharedAddress buffer) {
        synchronise();
        return buffer;
    }
    // The next tile's barriers come before the buffer's next write.
    template <class SumUp>
    INFONCE_DEVICE static void close_columns(SharedAddress, const SumUp& sum_up) {
        synchronise();
        if (const uint32_t index = 2 * thread_index(); index < COLUMNS) sum_up(index);
    }
};

// The candidate tiles of a work tile, one after another.
//
// The walk (WALKS, and `steps` > 0): where anchors and candidates are one matrix, z_ij = z_ji, so half of all tiles
// suffice. Rows form B blocks of as many rows as a tile has columns. At step u = 0 … ⌊B/2⌋ block r multiplies block
// (r + u) mod B. With 0 < u < B/2 no other tile has these two blocks, so the tile has column sums, too. With u = 0 a
// tile holds z_ij and z_ji itself; with u = B/2 each of two blocks multiplies the other.
template <class Tile, bool WALKS>
struct TilesOfWork {
    static constexpr uint32_t COLUMNS = Tile::COLUMNS, ROW_TILES = Tile::COLUMNS / Tile::ROWS;  // row tiles of a block
    uint32_t all, first, count;

    INFONCE_DEVICE TilesOfWork(const ScoresParams& p, Work work) {
        all = all_of(p);
        const bool walks = WALKS && p.steps;
        const uint32_t taken = walks ? p.steps : all;
        first = work.split * p.tiles_per_split;
        count = first < taken ? taken - first : 0;
        if (count > p.tiles_per_split) count = p.tiles_per_split;
        if (walks) first += p.first_step + work.tile / ROW_TILES;
    }
    INFONCE_DEVICE static uint32_t all_of(const ScoresParams& p) { return (p.candidates.rows + COLUMNS - 1) / COLUMNS; }
    INFONCE_DEVICE uint32_t first_column(uint32_t tile) const {
        const uint32_t at = first + tile;
        return (WALKS && at >= all ? at - all : at) * COLUMNS;
    }
};

// The dot products ⟨q_i, k_j⟩ of one tile, as the threads hold them. Epilogues multiply by s·log2(e) (scale2).
template <class Tile>
struct Logits {
    float z[Tile::ROW_BLOCKS][Tile::COLUMN_BLOCKS][4];
};

// A thread's position in a tile.
template <class Tile>
struct Place {
    int lane, warp_row, warp_column;
    INFONCE_DEVICE Place() {
        const int warp = thread_index() / 32;
        lane = thread_index() % 32;
        warp_row = warp % Tile::WARPS_DOWN;
        warp_column = warp / Tile::WARPS_DOWN;
    }
    // The tile's row of entries 2·half and 2·half + 1 of a row block.
    INFONCE_DEVICE int row(int row_block, int half) const {
        return warp_row * Tile::WARP_ROWS + row_block * 16 + half * 8 + lane / 4;
    }
    INFONCE_DEVICE int column(int column_block, int side) const {
        return warp_column * Tile::WARP_COLUMNS + column_block * 8 + lane % 4 * 2 + side;
    }
};

// Runs the tiles of this block and calls `epilogue.tile(logits, first_column, buffer)` after each. The buffer is the
// stage that was read last: after a barrier of all threads the epilogue may use it until the next tile.
template <class Kernel, class Epilogue>
INFONCE_DEVICE void score_tiles(const ScoresParams& p, Epilogue& epilogue) {
    using Tile = ScoresTile;
    using T = typename Kernel::T;
    static_assert(list::describes<Kernel, Tile>);
    const Place<Tile> place;
    const SharedAddress shared = shared_base();
    const Work work = work_of_block();
    const uint32_t first_row = work.tile * Tile::ROWS;
    const TilesOfWork<Tile, Epilogue::WALKS> tiles(p, work);
    const uint32_t slabs = (p.anchors.row_bytes + SLAB_BYTES - 1) / SLAB_BYTES;
    // One sequence of slabs over all tiles: the next tile's are copied while this tile's epilogue runs.
    uint32_t coming_tile = 0, coming_byte = 0, coming_stage = 0, stage = 0;
    SharedAddress left = shared;
    auto load_next = [&] {
        if (coming_tile < tiles.count) {
            const SharedAddress to = shared + coming_stage * Tile::STAGE;
            load_slab<Tile::ROWS, Tile::THREADS>(to, p.anchors, first_row, coming_byte);
            load_slab<Tile::COLUMNS, Tile::THREADS>(to + Tile::SLAB, p.candidates,
                                                    tiles.first_column(coming_tile), coming_byte);
            coming_byte += SLAB_BYTES;
            if (coming_byte >= p.anchors.row_bytes) {
                coming_byte = 0;
                ++coming_tile;
            }
            coming_stage = coming_stage + 1 < Tile::STAGES ? coming_stage + 1 : 0;
        }
        commit_copies();
    };
    INFONCE_UNROLL
    for (int i = 0; i < Tile::STAGES - 1; ++i) load_next();
    for (uint32_t tile = 0; tile < tiles.count; ++tile) {
        Logits<Tile> logits;
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int j = 0; j < Tile::COLUMN_BLOCKS; ++j)
                INFONCE_UNROLL
                for (int e = 0; e < 4; ++e) logits.z[i][j][e] = 0.0f;
        for (uint32_t slab = 0; slab < slabs; ++slab) {
            wait_copies<Tile::STAGES - 2>();
            block_barrier();
            load_next();
            left = shared + stage * Tile::STAGE;
            stage = stage + 1 < Tile::STAGES ? stage + 1 : 0;
            const SharedAddress right = left + Tile::SLAB;
            INFONCE_UNROLL
            for (int step = 0; step < 4; ++step) {
                uint32_t a[Tile::ROW_BLOCKS][4];
                INFONCE_UNROLL
                for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
                    load_left(a[i], left, place.warp_row * Tile::WARP_ROWS + i * 16, step);
                INFONCE_UNROLL
                for (int j = 0; j < Tile::COLUMN_BLOCKS; j += 2) {
                    uint32_t low[2], high[2];
                    load_right(low, high, right, place.warp_column * Tile::WARP_COLUMNS + j * 8, step);
                    INFONCE_UNROLL
                    for (int i = 0; i < Tile::ROW_BLOCKS; ++i) {
                        Element<T>::multiply(logits.z[i][j], a[i], low);
                        Element<T>::multiply(logits.z[i][j + 1], a[i], high);
                    }
                }
            }
        }
        epilogue.tile(logits, tiles.first_column(tile), left);
    }
    wait_copies<0>();
}

}  // namespace infonce
