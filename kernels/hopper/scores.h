// The tile loop QKᵀ of similarity/scores.h on sm_90a: 128 × 256 dot products of any D in the registers of two consumer
// warpgroups, with wgmma. One thread of the third warpgroup is the producer. The epilogues are those of similarity/.
//
//   anchors      RESIDENT: all slabs of the block's 128 rows stay in shared memory, at most 512 bytes a row;
//                otherwise they are streamed with the candidates' slabs
//   candidates   slabs of 256 rows, STAGES in flight; the two CTAs of a cluster have neighbouring row tiles, and
//                each multicasts half of each slab. With D > 256 a block then asks L2 for 32 KB in the 1,024 clocks of
//                a slab's products; without clusters it would be 48 KB
//
// Elements are 16-bit types, or e4m3 with a scale a row (rowwise/quantize.cu); a slab is 128 bytes of either. A second
// warp of the third warpgroup loads one value a column: its e4m3 scale, or its term of the weights.
//
// With RESIDENT anchors the two consumers issue a tile's products in ping-pong: one multiplies while the other is in
// its epilogue, which takes about as long at D = 128 (Shah et al., FlashAttention-3, 2024, section 3.1). Otherwise a
// tile has more slabs than there are stages, and a consumer that waited at the ping-pong barrier would hold stages that
// the other needs. There the second consumer starts two slabs late, so it still has products to issue while the first
// is in its epilogue.
#pragma once

#include "hopper/tile.h"
#include "similarity/scores.h"

#include <type_traits>

namespace infonce {

struct HopperScoresParams {
    TensorMap anchors;     // boxes of 128 rows
    TensorMap candidates;  // boxes of 128 rows
    TensorMap weights;     // boxes of 16 rows, of kernels that store weights or exponentials
    ScoresParams scores;
    WorkGrid grid;
    INFONCE_DEVICE operator const ScoresParams&() const { return scores; }
};

struct HopperTile {
    static constexpr int ROWS = 128, COLUMNS = 256, GROUPS = 2;
    static constexpr int WARPS_DOWN = 4 * GROUPS, WARPS_ACROSS = 1;
    static constexpr int WARP_ROWS = WEIGHTS_BOX_ROWS, WARP_COLUMNS = COLUMNS;
    static constexpr int ROW_BLOCKS = 1, COLUMN_BLOCKS = COLUMNS / 8;
    static constexpr int CONSUMERS = GROUPS * int(WARPGROUP), THREADS = CONSUMERS + int(WARPGROUP);
    static constexpr int LEFT = ROWS * SLAB_BYTES, RIGHT = COLUMNS * SLAB_BYTES;
    static constexpr int STAGES = 4, RESIDENT_SLABS = 4;
    using Stages = Ring<STAGES, PAIR>;
    // At D = 128 all exponentials on the special-function unit take as long as the products. With a quarter of them on
    // the FMA units, the unit takes three quarters of the products' time, and 0.7 of the issue slots are used.
    static constexpr int POLYNOMIAL_EACH = 4;
    // Buffers: two of each warp's partial sums of all columns, or two boxes of weights a warp.
    static constexpr int WEIGHTS_BOX = WARP_ROWS * int(SLAB_BYTES);
    static constexpr int BUFFERS_BYTES = WARPS_DOWN * 2 * WEIGHTS_BOX;
    static constexpr int COLUMNS_BYTES = WARPS_DOWN * COLUMNS * int(sizeof(ScaledSum));
    static_assert(2 * COLUMNS_BYTES <= BUFFERS_BYTES, "partial sums of two tiles");
    static constexpr int SLABS_BYTES = RESIDENT_SLABS * LEFT + STAGES * RIGHT;
    static_assert(STAGES * (LEFT + RIGHT) == SLABS_BYTES, "resident or not, slabs take the same memory");
    static_assert(RESIDENT_SLABS == STAGES, "the ring holds all slabs of a tile; other tiles have more");
    // Slabs that the first consumer is ahead without ping-pong.
    static constexpr uint32_t AHEAD = 2;
    static_assert(AHEAD < RESIDENT_SLABS, "rows that are not resident have more slabs");
    // A double buffer of column terms.
    static constexpr bool BRINGS_COLUMN_TERMS = true;
    static constexpr int TERMS_STAGES = 2, TERMS_BYTES = COLUMNS * int(sizeof(float));
    static constexpr int SHARED_BYTES = SLABS_BYTES + BUFFERS_BYTES + TERMS_STAGES * TERMS_BYTES + int(Stages::BYTES) +
                                        int(Ring<1>::BYTES) + int(Ring<TERMS_STAGES>::BYTES);
    // Named barriers: ping-pong of the consumers, or the late start of the second; and one a buffer of column sums.
    static constexpr uint32_t PING_PONG = 1, START = 1, COLUMNS_WRITTEN = 3;

    // Consumer 0 leaves its partial column sums in a buffer and continues; consumer 1, later in its epilogue, adds up
    // both. Two buffers alternate, so that neither waits for the other's next tile.
    //
    // Consumer 0 uses a buffer again two tiles later. By then all warps of consumer 1 have begun the tile between: they
    // are in ping-pong, or a tile has more slabs than there are stages.
    INFONCE_DEVICE static SharedAddress open_columns(SharedAddress buffer) { return buffer; }
    template <class SumUp>
    INFONCE_DEVICE static void close_columns(SharedAddress buffer, const SumUp& sum_up) {
        const uint32_t written = COLUMNS_WRITTEN + (buffer - shared_base() - SLABS_BYTES) / COLUMNS_BYTES;
        if (thread_index() < WARPGROUP) return named_arrive(written, CONSUMERS);
        named_barrier(written, CONSUMERS);
        static_assert(COLUMNS == 2 * WARPGROUP, "two columns for each thread of the second");
        sum_up(2 * (thread_index() - WARPGROUP));
    }
};

// The layout of shared memory.
template <bool RESIDENT>
struct HopperScoresMemory {
    using Tile = HopperTile;
    static constexpr uint32_t STAGE = RESIDENT ? Tile::RIGHT : Tile::LEFT + Tile::RIGHT;
    SharedAddress resident, stages, buffer, terms;
    Tile::Stages ring;
    Ring<1> resident_ring;
    Ring<Tile::TERMS_STAGES> terms_ring;

    INFONCE_DEVICE HopperScoresMemory() {
        resident = shared_base();
        stages = RESIDENT ? resident + Tile::RESIDENT_SLABS * Tile::LEFT : resident;
        buffer = resident + Tile::SLABS_BYTES;
        terms = buffer + Tile::BUFFERS_BYTES;
        ring.barriers = terms + Tile::TERMS_STAGES * Tile::TERMS_BYTES;
        resident_ring.barriers = ring.barriers + Tile::Stages::BYTES;
        terms_ring.barriers = resident_ring.barriers + Ring<1>::BYTES;
    }
};

INFONCE_DEVICE uint32_t slabs_of_row(const ScoresParams& p) { return (p.anchors.row_bytes + SLAB_BYTES - 1) / SLAB_BYTES; }

// The producer: copies the stages of all work tiles, and resident anchors.
template <class T, bool WALKS, bool RESIDENT, class Params>
INFONCE_DEVICE void copy_tiles(const Params& p, const HopperScoresMemory<RESIDENT>& memory) {
    using Tile = HopperTile;
    constexpr uint32_t STAGE = HopperScoresMemory<RESIDENT>::STAGE, ELEMENTS = SLAB_BYTES / sizeof(T);
    constexpr uint32_t HALF = Tile::COLUMNS / PAIR;
    const uint32_t half = cluster_rank() * HALF, slabs = slabs_of_row(p.scores);
    prefetch_map(p.anchors);
    prefetch_map(p.candidates);
    PipelineState<Tile::STAGES> state;
    PipelineState<1> resident_state;
    for (Scheduler<PAIR> scheduler{p.grid}; scheduler.has_work(); scheduler.advance()) {
        const Work work = scheduler.work();
        const TilesOfWork<Tile, WALKS> tiles(p.scores, work);
        const uint32_t first_row = work.tile * Tile::ROWS;
        for (uint32_t tile = 0; tile < tiles.count; ++tile) {
            const uint32_t first_column = tiles.first_column(tile);
            for (uint32_t slab = 0; slab < slabs; ++slab) {
                const SharedAddress full = memory.ring.fill(state, STAGE), to = memory.stages + state.stage * STAGE;
                multicast_box(to + half * SLAB_BYTES, p.candidates, slab * ELEMENTS, first_column + half, full, BOTH_BLOCKS);
                if (!RESIDENT) copy_box(to + Tile::RIGHT, p.anchors, slab * ELEMENTS, first_row, full);
                state.advance();
            }
            // After the first tile's candidates, whose stages are free before the previous work tile's anchors are.
            if (RESIDENT && tile == 0) {
                const SharedAddress full = memory.resident_ring.fill(resident_state, slabs * Tile::LEFT);
                for (uint32_t slab = 0; slab < slabs; ++slab)
                    copy_box(memory.resident + slab * Tile::LEFT, p.anchors, slab * ELEMENTS, first_row, full);
                resident_state.advance();
            }
        }
    }
}

// The warp that loads one value a column, up to two tiles ahead. Its loads are in flight together, and no other warp
// waits for them.
template <class T, bool WALKS, bool RESIDENT, class Params>
INFONCE_DEVICE void bring_column_terms(const Params& params, const HopperScoresMemory<RESIDENT>& memory) {
    using Tile = HopperTile;
    constexpr uint32_t LOADS = Tile::COLUMNS / 32;
    const ScoresParams& p = params.scores;
    const uint32_t lane = thread_index() % 32;
    float shift = 0.0f;
    bool shares = false;
    if constexpr (sizeof(T) > 1) {
        shift = weight_shift<T>(p.shift);
        shares = share_exponential(p.far, shift);
    }
    PipelineState<Tile::TERMS_STAGES> state;
    for (Scheduler<PAIR> scheduler{params.grid}; scheduler.has_work(); scheduler.advance()) {
        const TilesOfWork<Tile, WALKS> tiles(p, scheduler.work());
        for (uint32_t tile = 0; tile < tiles.count; ++tile) {
            const uint32_t first = tiles.first_column(tile) + lane;
            float terms[LOADS];
            INFONCE_UNROLL
            for (uint32_t i = 0; i < LOADS; ++i) {
                if constexpr (sizeof(T) == 1)
                    terms[i] = load_global(p.candidates.scales + first + i * 32);
                else
                    terms[i] = column_term(p, first + i * 32, shift, shares);
            }
            memory.terms_ring.wait_empty(state);
            INFONCE_UNROLL
            for (uint32_t i = 0; i < LOADS; ++i)
                store_shared(memory.terms + state.stage * Tile::TERMS_BYTES + (i * 32 + lane) * 4, terms[i]);
            mbarrier_arrive(memory.terms_ring.full(state.stage));
            state.advance();
        }
    }
}

// Scales of e4m3 rows: ⟨q_i, k_j⟩ = scale_i · scale_j · ⟨codes_i, codes_j⟩.
struct RowScales {
    float of[2];

    INFONCE_DEVICE RowScales(const ScoresParams& p, uint32_t row_tile) {
        const Place<HopperTile> place;
        INFONCE_UNROLL
        for (int half = 0; half < 2; ++half)
            of[half] = load_global(p.anchors.scales + row_tile * HopperTile::ROWS + place.row(0, half));
    }
    // `columns`: the scales of the tile's columns, in shared memory.
    INFONCE_DEVICE void apply(Logits<HopperTile>& logits, SharedAddress columns) const {
        const Place<HopperTile> place;
        INFONCE_UNROLL
        for (int j = 0; j < HopperTile::COLUMN_BLOCKS; ++j) {
            const Pair column = load_shared<Pair>(columns + 4 * place.column(j, 0));
            INFONCE_UNROLL
            for (int e = 0; e < 4; ++e) logits.z[0][j][e] = logits.z[0][j][e] * of[e / 2] * column.x[e % 2];
        }
    }
};

struct NoScales {
    INFONCE_DEVICE NoScales(const ScoresParams&, uint32_t) {}
    INFONCE_DEVICE void apply(Logits<HopperTile>&, SharedAddress) const {}
};

// Runs all work tiles of this block, which is one of a cluster of PAIR. Each work tile gets an epilogue; the consumers
// call `epilogue.tile(logits, first_column, buffer)` after each of its tiles and `epilogue.write(buffer)` at the end.
// `Params`: HopperScoresParams, or with options (hopper/options.h).
template <class Kernel, template <class> class Epilogue, class Params>
INFONCE_DEVICE void hopper_score_tiles(const Params& params) {
    using Tile = HopperTile;
    using T = typename Kernel::T;
    constexpr bool RESIDENT = Kernel::DIM > 0;
    static_assert(list::describes<Kernel, Tile> && Kernel::CLUSTER == PAIR);
    static_assert(!RESIDENT || Kernel::DIM * int(sizeof(T)) == Tile::RESIDENT_SLABS * SLAB_BYTES);
    constexpr uint32_t STAGE = HopperScoresMemory<RESIDENT>::STAGE;
    const ScoresParams& p = params.scores;
    const HopperScoresMemory<RESIDENT> memory;
    const Tile::Stages& ring = memory.ring;
    constexpr bool COLUMN_TERMS = Epilogue<Tile>::COLUMN_TERMS || sizeof(T) == 1;
    const bool brings_terms = COLUMN_TERMS && (sizeof(T) == 1 || p.column_offset2);
    if (thread_index() == 0) {
        ring.init(Tile::WARPS_DOWN);
        memory.resident_ring.init(Tile::WARPS_DOWN);
        if (COLUMN_TERMS) memory.terms_ring.init(Tile::WARPS_DOWN, 31);
        fence_mbarrier_init();
    }
    cluster_barrier();
    wait_for_launches_before();
    if (is_needless(p)) return;
    if (thread_index() >= uint32_t(Tile::CONSUMERS)) {
        give_registers<40>();
        if (thread_index() == uint32_t(Tile::CONSUMERS)) copy_tiles<T, Epilogue<Tile>::WALKS>(params, memory);
        if constexpr (COLUMN_TERMS) {
            if (thread_index() / 32 == uint32_t(Tile::CONSUMERS) / 32 + 1 && brings_terms)
                bring_column_terms<T, Epilogue<Tile>::WALKS>(params, memory);
        }
        return;
    }
    take_registers<232>();
    const uint32_t group = same_in_warp(thread_index() / WARPGROUP);
    const SharedAddress own_rows = group * 64 * SLAB_BYTES;
    PipelineState<Tile::STAGES> state;
    PipelineState<1> resident_state;
    PipelineState<Tile::TERMS_STAGES> terms_state;
    SharedAddress buffer = memory.buffer;
    if (RESIDENT && group == 1) named_arrive(Tile::PING_PONG, Tile::CONSUMERS);
    for (Scheduler<PAIR> scheduler{params.grid}; scheduler.has_work(); scheduler.advance()) {
        const Work work = scheduler.work();
        const TilesOfWork<Tile, Epilogue<Tile>::WALKS> tiles(p, work);
        Epilogue<Tile> epilogue(params, work);
        const typename std::conditional<sizeof(T) == 1, RowScales, NoScales>::type scales(p, work.tile);
        if (RESIDENT && tiles.count > 0) memory.resident_ring.wait(resident_state);
        for (uint32_t tile = 0; tile < tiles.count; ++tile) {
            Logits<Tile> logits;
            float(&sums)[Tile::COLUMNS / 2] = reinterpret_cast<float(&)[Tile::COLUMNS / 2]>(logits.z);
            if (RESIDENT) named_barrier(Tile::PING_PONG + group, Tile::CONSUMERS);
            if (!RESIDENT && tile == 0 && group == 1) named_barrier(Tile::START, Tile::CONSUMERS);
            uint32_t last_stage = 0;
            // The end is compared with a parameter: a count of slabs would spill a register. In another loop than do
            // the compiler waits after products.
            uint32_t slab = 0;
            do {
                ring.wait(state);
                if (!RESIDENT && tile == 0 && slab == Tile::AHEAD && group == 0)
                    named_arrive(Tile::START, Tile::CONSUMERS);
                const SharedAddress stage = memory.stages + state.stage * STAGE;
                const SharedAddress left = RESIDENT ? memory.resident + slab * Tile::LEFT : stage + Tile::RIGHT;
                const MatrixDescriptor a = describe_matrix(left + own_rows, 16), b = describe_matrix(stage, 16);
                pin_accumulator(sums);
                wgmma_fence();
                INFONCE_UNROLL
                for (uint32_t step = 0; step < 4; ++step)
                    WarpgroupProduct<T, Tile::COLUMNS>::template shared<false, false>(
                        sums, a + step * 32, b + step * 32, slab > 0 || step > 0);
                ring.follow(state, last_stage, slab == 0);
            } while (++slab * SLAB_BYTES < p.anchors.row_bytes);
            // The other consumer's products follow these.
            if (RESIDENT) named_arrive(Tile::PING_PONG + 1 - group, Tile::CONSUMERS);
            wgmma_wait<0>();
            pin_accumulator(sums);
            ring.release(last_stage);
            if (RESIDENT && tile + 1 == tiles.count) {
                memory.resident_ring.release(0);
                resident_state.advance();
            }
            const uint32_t first_column = tiles.first_column(tile);
            const SharedAddress terms = memory.terms + terms_state.stage * Tile::TERMS_BYTES;
            if (brings_terms) memory.terms_ring.wait(terms_state);
            scales.apply(logits, terms);
            if constexpr (Epilogue<Tile>::COLUMN_TERMS) epilogue.column_terms = terms;
            epilogue.tile(logits, first_column, buffer);
            if (brings_terms) {
                warp_barrier();
                memory.terms_ring.release(terms_state.stage);
                terms_state.advance();
            }
            if (Epilogue<Tile>::BUFFERS == 2) buffer = 2 * memory.buffer + Tile::COLUMNS_BYTES - buffer;
        }
        epilogue.write(buffer);
    }
    // Consumes the other consumer's last arrival.
    if (RESIDENT && group == 0) named_barrier(Tile::PING_PONG, Tile::CONSUMERS);
    // The other block's shared memory exists until all arrivals there have come.
    cluster_barrier();
}

}  // namespace infonce
