// The tile loop of similarity/scores.h on sm_90a: 128 × 256 logits of any D, in the registers of two
// warpgroups, with wgmma; a third warpgroup's first thread copies. Epilogues are the same.
//
//   anchors      RESIDENT: all slabs of the block's 128 rows stay in shared memory, 512 bytes of each at most;
//                else they come in with the candidates' slabs
//   candidates   slabs of 256 rows, STAGES in flight; the two blocks of a cluster, which have row tiles side by
//                side, copy half of each slab into both: without that a tile of D > 256 asks the L2 cache
//                for 48 KB in 1,024 clocks of its products
//
// Numbers are of 16 bits, or e4m3 with a scale of every row (rowwise/quantize.cu); a slab is 128 bytes of either.
//
// With RESIDENT anchors the two warpgroups take turns to issue a tile's products: while one multiplies
// the other is in its epilogue, which takes about as long at D = 128 (Shah et al., FlashAttention-3,
// 2024, section 3.1). Elsewhere a tile has more slabs than there are stages, and who waits for a turn
// would keep stages that the other waits for; there the epilogue is a small part of a tile.
#pragma once

#include "hopper/tile.h"
#include "similarity/scores.h"

namespace infonce {

struct HopperScoresParams {
    TensorMap anchors;     // boxes of 128 rows
    TensorMap candidates;  // boxes of 128 rows
    TensorMap weights;     // boxes of 16 rows; of kernels that store them
    ScoresParams scores;
    INFONCE_DEVICE operator const ScoresParams&() const { return scores; }
};

struct HopperTile {
    static constexpr int ROWS = 128, COLUMNS = 256, GROUPS = 2;
    static constexpr int WARPS_DOWN = 4 * GROUPS, WARPS_ACROSS = 1;
    static constexpr int WARP_ROWS = 16, WARP_COLUMNS = COLUMNS;
    static constexpr int ROW_BLOCKS = 1, COLUMN_BLOCKS = COLUMNS / 8;
    static constexpr int CONSUMERS = GROUPS * int(WARPGROUP), THREADS = CONSUMERS + int(WARPGROUP);
    static constexpr int LEFT = ROWS * SLAB_BYTES, RIGHT = COLUMNS * SLAB_BYTES;
    static constexpr int STAGES = 4, RESIDENT_SLABS = 4;
    using Stages = Ring<STAGES, PAIR>;
    // Up to D = 128 the special-function unit is the limit, at about the time of the products. A quarter of
    // the exponentials elsewhere leaves it three quarters of that and takes 0.7 of the issue slots.
    static constexpr int POLYNOMIAL_EACH = 4;
    // Room for a partial sum of every column from every warp, or for two boxes of weights of every warp.
    static constexpr int WEIGHTS_BOX = WARP_ROWS * int(SLAB_BYTES);
    static constexpr int ROOM = WARPS_DOWN * 2 * WEIGHTS_BOX;
    static_assert(WARPS_DOWN * COLUMNS * 8 <= ROOM, "partial sums");
    static constexpr int SLABS_BYTES = RESIDENT_SLABS * LEFT + STAGES * RIGHT;
    static_assert(STAGES * (LEFT + RIGHT) == SLABS_BYTES, "both ways take the same memory");
    static_assert(RESIDENT_SLABS <= STAGES, "a turn takes all slabs of a tile");
    static constexpr int SHARED_BYTES = SLABS_BYTES + ROOM + int(Stages::BYTES) + int(MBARRIER_BYTES);
    static constexpr uint32_t MEETING = 1, FIRST_TURN = 2;  // named barriers
    INFONCE_DEVICE static void meet() { named_barrier(MEETING, CONSUMERS); }
};

// The part of the copying thread.
template <class T, bool RESIDENT>
INFONCE_DEVICE void copy_tiles(const HopperScoresParams& p, HopperTile::Stages ring, SharedAddress resident,
                               SharedAddress stages, SharedAddress resident_full, uint32_t first_tile, uint32_t tiles,
                               uint32_t slabs) {
    using Tile = HopperTile;
    constexpr uint32_t STAGE = RESIDENT ? Tile::RIGHT : Tile::LEFT + Tile::RIGHT, NUMBERS = SLAB_BYTES / sizeof(T);
    constexpr uint32_t HALF = Tile::COLUMNS / PAIR;
    const uint32_t first_row = block_index().x * Tile::ROWS, half = cluster_rank() * HALF;
    prefetch_map(p.anchors);
    prefetch_map(p.candidates);
    if (RESIDENT) {
        mbarrier_arrive_expect(resident_full, slabs * Tile::LEFT);
        for (uint32_t slab = 0; slab < slabs; ++slab)
            copy_box(resident + slab * Tile::LEFT, p.anchors, slab * NUMBERS, first_row, resident_full);
    }
    Turn<Tile::STAGES> turn;
    for (uint32_t tile = 0; tile < tiles; ++tile) {
        const uint32_t first_column = (first_tile + tile) * Tile::COLUMNS;
        for (uint32_t slab = 0; slab < slabs; ++slab) {
            const SharedAddress full = ring.fill(turn, STAGE), to = stages + turn.stage * STAGE;
            multicast_box(to + half * SLAB_BYTES, p.candidates, slab * NUMBERS, first_column + half, full, BOTH_BLOCKS);
            if (!RESIDENT) copy_box(to + Tile::RIGHT, p.anchors, slab * NUMBERS, first_row, full);
            turn.advance();
        }
    }
}

// What makes logits of products: nothing, or, for numbers that were divided by a scale of their row, the
// scales of both rows.
template <class T>
INFONCE_DEVICE void scale_logits(const ScoresParams&, Logits<HopperTile>&, uint32_t) {}

template <>
INFONCE_DEVICE void scale_logits<e4m3>(const ScoresParams& p, Logits<HopperTile>& logits, uint32_t first_column) {
    const Place<HopperTile> place;
    const float* rows = p.anchor_scales + block_index().x * HopperTile::ROWS;
    const float row[2] = {load_global(rows + place.row(0, 0)), load_global(rows + place.row(0, 1))};
    INFONCE_UNROLL
    for (int j = 0; j < HopperTile::COLUMN_BLOCKS; ++j) {
        const float* columns = p.candidate_scales + first_column + place.column(j, 0);
        const Vector8 column = load_global(reinterpret_cast<const Vector8*>(columns));
        INFONCE_UNROLL
        for (int e = 0; e < 4; ++e) logits.z[0][j][e] = logits.z[0][j][e] * row[e / 2] * bits_float(column.x[e % 2]);
    }
}

// Each role counts its tiles by itself: one number for both, kept through everything, spilled beside the
// scales of e4m3.
INFONCE_DEVICE uint32_t tiles_of_block(const ScoresParams& p, uint32_t first_tile) {
    constexpr uint32_t COLUMNS = HopperTile::COLUMNS;
    const uint32_t all_tiles = (p.candidates.rows + COLUMNS - 1) / COLUMNS;
    if (first_tile >= all_tiles || (p.unless && load_global(p.unless))) return 0;
    const uint32_t left = all_tiles - first_tile;
    return left < p.tiles_per_split ? left : p.tiles_per_split;
}

// Runs the tiles of this block, one of a cluster of PAIR; `epilogue.tile(logits, first_column, room)` after
// each, on the threads of the consumers only.
template <class T, bool RESIDENT, template <class> class Epilogue>
INFONCE_DEVICE void hopper_score_tiles(const HopperScoresParams& params) {
    using Tile = HopperTile;
    const ScoresParams& p = params.scores;
    constexpr uint32_t STAGE = RESIDENT ? Tile::RIGHT : Tile::LEFT + Tile::RIGHT;
    const SharedAddress resident = shared_base();
    const SharedAddress stages = RESIDENT ? resident + Tile::RESIDENT_SLABS * Tile::LEFT : resident;
    const SharedAddress room = resident + Tile::SLABS_BYTES;
    const Tile::Stages ring{room + Tile::ROOM};
    const SharedAddress resident_full = ring.barriers + Tile::Stages::BYTES;
    const uint32_t first_tile = block_index().y * p.tiles_per_split;
    const uint32_t slabs = (p.anchors.row_bytes + SLAB_BYTES - 1) / SLAB_BYTES;
    if (thread_index() == 0) {
        ring.init(Tile::WARPS_DOWN);
        mbarrier_init(resident_full, 1);
        fence_mbarrier_init();
    }
    cluster_barrier();
    if (thread_index() >= uint32_t(Tile::CONSUMERS)) {
        give_registers<40>();
        const uint32_t tiles = tiles_of_block(p, first_tile);
        if (thread_index() == uint32_t(Tile::CONSUMERS) && tiles > 0)
            copy_tiles<T, RESIDENT>(params, ring, resident, stages, resident_full, first_tile, tiles, slabs);
        return;
    }
    take_registers<232>();
    const uint32_t tiles = tiles_of_block(p, first_tile);
    const uint32_t group = thread_index() / WARPGROUP;
    const SharedAddress own_rows = group * 64 * SLAB_BYTES;
    Epilogue<Tile> epilogue(params);
    Turn<Tile::STAGES> turn;
    if (RESIDENT && group == 1 && tiles > 0) named_arrive(Tile::FIRST_TURN, Tile::CONSUMERS);
    if (RESIDENT && tiles > 0) mbarrier_wait(resident_full, 0);
    for (uint32_t tile = 0; tile < tiles; ++tile) {
        Logits<Tile> logits;
        float(&sums)[Tile::COLUMNS / 2] = reinterpret_cast<float(&)[Tile::COLUMNS / 2]>(logits.z);
        if (RESIDENT) named_barrier(Tile::FIRST_TURN + group, Tile::CONSUMERS);
        uint32_t last_stage = 0;
        for (uint32_t slab = 0; slab < slabs; ++slab) {
            ring.wait(turn);
            const SharedAddress stage = stages + turn.stage * STAGE;
            const SharedAddress left = RESIDENT ? resident + slab * Tile::LEFT : stage + Tile::RIGHT;
            const MatrixDescriptor a = describe_matrix(left + own_rows, 16), b = describe_matrix(stage, 16);
            pin_accumulator(sums);
            wgmma_fence();
            INFONCE_UNROLL
            for (uint32_t step = 0; step < 4; ++step)
                WarpgroupProduct<T, Tile::COLUMNS>::template shared<false, false>(sums, a + step * 32, b + step * 32,
                                                                                  slab > 0 || step > 0);
            wgmma_commit();
            if (slab > 0) {
                wgmma_wait<1>();
                ring.release(last_stage);
            }
            last_stage = turn.stage;
            turn.advance();
        }
        // The other's products follow these; after the last tile nobody waits any more.
        if (RESIDENT && (group == 0 || tile + 1 < tiles))
            named_arrive(Tile::FIRST_TURN + 1 - group, Tile::CONSUMERS);
        wgmma_wait<0>();
        pin_accumulator(sums);
        ring.release(last_stage);
        scale_logits<T>(p, logits, (first_tile + tile) * Tile::COLUMNS);
        epilogue.tile(logits, (first_tile + tile) * Tile::COLUMNS, room);
    }
    // No more arrivals at the other block, whose memory has to be there until they have come.
    cluster_arrive();
    epilogue.write(room);
    cluster_wait();
}

}  // namespace infonce
