// The fused gradient Σ_j W_ij y_j of similarity/gradient.h on sm_90a. Two consumer warpgroups own 64 rows each; both
// products of a tile are wgmma. One thread of the third warpgroup is the producer. 4NMD FLOPs.
//
//   owner tile      128 rows × D, resident
//   streamed tiles  COLUMNS × D, STAGES in flight; one tile serves the logits (its rows are columns of the
//                   product) and, read across, the sums
//
// If weights have a term of the streamed rows, the producer's warp also loads that term. Without the owners' term it
// also loads which owner is each streamed row's positive (asks_streamed).
//
// A consumer issues the logits of tile t + 1, then the sums of tile t, and computes weights while the sums run. The two
// consumers issue in ping-pong (Shah et al., FlashAttention-3, 2024, sections 3.1, 3.2).
#include "hopper/tile.h"
#include "similarity/owned_rows.h"

namespace infonce {

struct HopperGradientParams {
    TensorMap owner;     // boxes of 128 rows
    TensorMap streamed;  // boxes of COLUMNS rows
    GradientParams gradient;
    WorkGrid grid;
};

// The terms of W; ONLINE: against the running maximum. Each set of known terms has its own kernel, so that registers
// hold no more than it needs.
enum class Terms { ONLINE, OWNER, STREAMED, BOTH };

// n: one of n exponentials uses the polynomial on the FMA units; 0: none. All exponentials on the special-function unit
// take 64 / D of the products' time (two terms nearly always share an exponential). Up to D = 64 the polynomial
// relieves it, for 9 more issue slots an exponential. n balances both: a tile of 128 × 128 logits takes 16,384 (1 -
// 1/n) / 16 clocks of the unit, and issue takes two clocks an instruction of a warp.
constexpr int polynomial_each(Terms terms, int dim) {
    if (dim > 64) return 0;
    return terms == Terms::ONLINE ? 16 : terms == Terms::OWNER ? 4 : 8;
}

constexpr Softmax softmax_of(Terms terms) { return terms == Terms::ONLINE ? Softmax::ONLINE : Softmax::KNOWN; }

template <class Kernel, Terms TERMS>
using OwnedByWarpgroups = OwnedRows<typename Kernel::T, Kernel::ROWS, Kernel::COLUMNS / 8, Kernel::DIM / 8, softmax_of(TERMS),
                                    TERMS == Terms::BOTH, polynomial_each(TERMS, Kernel::DIM)>;

template <class Kernel, Terms TERMS>
struct HopperGradient : OwnedByWarpgroups<Kernel, TERMS> {
    using T = typename Kernel::T;
    static constexpr int ROWS = Kernel::ROWS, COLUMNS = Kernel::COLUMNS, STAGES = Kernel::STAGES;
    static constexpr int DIM = Kernel::DIM, SLABS = DIM / int(SLAB_ELEMENTS);
    static_assert(STAGES > 2, "two tiles are used while others come in");
    static constexpr bool ONLINE = TERMS == Terms::ONLINE;
    static constexpr bool OWNER_TERM = TERMS == Terms::OWNER || TERMS == Terms::BOTH;
    static constexpr bool STREAMED_TERM = TERMS == Terms::STREAMED || TERMS == Terms::BOTH;
    static constexpr int GROUPS = 2, CONSUMERS = GROUPS * int(WARPGROUP);
    static_assert(ROWS == 64 * GROUPS && Kernel::THREADS == CONSUMERS + int(WARPGROUP));
    static constexpr int OWNER_SLAB = ROWS * SLAB_BYTES, STREAMED_SLAB = COLUMNS * SLAB_BYTES;
    static constexpr int STAGE = SLABS * STREAMED_SLAB;
    static constexpr bool ASKS = STREAMED_TERM && !OWNER_TERM;
    // Bytes of a stage's streamed rows: their terms and, if ASKS, the owners that are their positives.
    static constexpr int TERMS_BYTES = 4 * COLUMNS, ROWS_BYTES = TERMS_BYTES * (ASKS ? 2 : 1);
    static_assert(Kernel::SHARED_BYTES ==
                  SLABS * OWNER_SLAB + STAGES * (STAGE + ROWS_BYTES) + int(Ring<STAGES>::BYTES) + int(Ring<1>::BYTES));
    static constexpr uint32_t PING_PONG = 1;  // named barriers
    static constexpr int BLOCKS = COLUMNS / 8, STEPS = COLUMNS / 16;
    using Owned = OwnedByWarpgroups<Kernel, TERMS>;
    using Owned::first_owner, Owned::first_tile, Owned::p, Owned::sums, Owned::tiles;

    SharedAddress owner_slabs, stages, streamed_rows;
    Ring<STAGES> ring;
    Ring<1> owner_ring;
    uint32_t group;

    INFONCE_DEVICE explicit HopperGradient(const GradientParams& params) : Owned(params) {
        owner_slabs = shared_base();
        stages = owner_slabs + SLABS * OWNER_SLAB;
        streamed_rows = stages + STAGES * STAGE;
        ring.barriers = streamed_rows + STAGES * ROWS_BYTES;
        owner_ring.barriers = ring.barriers + Ring<STAGES>::BYTES;
        group = same_in_warp(thread_index() / WARPGROUP);
    }

    INFONCE_DEVICE static void run(const HopperGradientParams& params) {
        HopperGradient self(params.gradient);
        if (thread_index() == 0) {
            self.ring.init(CONSUMERS / 32, STREAMED_TERM ? 32 : 0);
            self.owner_ring.init(CONSUMERS / 32);
            fence_mbarrier_init();
        }
        block_barrier();
        wait_for_launches_before();
        if (thread_index() >= uint32_t(CONSUMERS)) {
            give_registers<40>();
            if (thread_index() < uint32_t(CONSUMERS) + 32) self.copy(params);
            return;
        }
        take_registers<232>();
        PipelineState<STAGES> state;
        PipelineState<1> owner_state;
        if (self.group == 1) self.pass_ping_pong();
        for (Scheduler<> scheduler{params.grid}; scheduler.has_work(); scheduler.advance()) {
            self.begin(scheduler.work());
            self.load_rows();
            if (self.tiles > 0) self.consume(state, owner_state);
            self.write();
        }
        // Consumes the other consumer's last arrival.
        if (self.group == 0) self.wait_ping_pong();
    }

    // The producer's warp: its first thread (`leads`) copies boxes; all load terms.
    INFONCE_DEVICE void copy(const HopperGradientParams& params) {
        if (STREAMED_TERM) Owned::find_shift();
        const bool leads = thread_index() == uint32_t(CONSUMERS);
        if (leads) {
            prefetch_map(params.owner);
            prefetch_map(params.streamed);
        } else if (!STREAMED_TERM) {
            return;
        }
        PipelineState<STAGES> state;
        PipelineState<1> owner_state;
        for (Scheduler<> scheduler{params.grid}; scheduler.has_work(); scheduler.advance()) {
            Owned::begin(scheduler.work());
            for (uint32_t tile = 0; tile < tiles; ++tile) {
                copy_streamed(params, leads, tile, state);
                // After the first streamed tile, whose stage is free before the previous work tile's owners are.
                if (tile == 0 && leads) copy_owner(params, owner_state);
                state.advance();
            }
            if (tiles > 0) owner_state.advance();
        }
    }

    INFONCE_DEVICE void copy_owner(const HopperGradientParams& params, const PipelineState<1>& state) const {
        const SharedAddress full = owner_ring.fill(state, SLABS * OWNER_SLAB);
        for (uint32_t slab = 0; slab < uint32_t(SLABS); ++slab)
            copy_box(owner_slabs + slab * OWNER_SLAB, params.owner, slab * SLAB_ELEMENTS, first_owner, full);
    }

    INFONCE_DEVICE void copy_streamed(const HopperGradientParams& params, bool leads, uint32_t tile,
                                      const PipelineState<STAGES>& state) const {
        const uint32_t first_row = (first_tile + tile) * COLUMNS;
        ring.wait_empty(state);
        if (leads) {
            const SharedAddress full = ring.full(state.stage);
            mbarrier_arrive_expect(full, STAGE);
            for (uint32_t slab = 0; slab < uint32_t(SLABS); ++slab)
                copy_box(stages + state.stage * STAGE + slab * STREAMED_SLAB, params.streamed, slab * SLAB_ELEMENTS,
                         first_row, full);
        }
        if (STREAMED_TERM) {
            const SharedAddress to = streamed_rows + state.stage * ROWS_BYTES;
            for (uint32_t c = thread_index() % 32; c < uint32_t(COLUMNS); c += 32) {
                store_shared(to + 4 * c, Owned::streamed_term(first_row + c));
                if (ASKS && Owned::asks_streamed()) store_shared(to + TERMS_BYTES + 4 * c, Owned::owner_of(first_row + c));
            }
            mbarrier_arrive(ring.full(state.stage));
        }
    }

    using Weights = float[BLOCKS][4];
    using Fragments = uint32_t[STEPS][4];

    INFONCE_DEVICE void consume(PipelineState<STAGES>& state, PipelineState<1>& owner_state) {
        Weights weights;
        Fragments fragments;
        float factor[2] = {1.0f, 1.0f};
        owner_ring.wait(owner_state);
        owner_state.advance();
        wait_ping_pong();
        ring.wait(state);
        issue_logits(weights, state.stage);
        pass_ping_pong();
        wgmma_wait<0>();
        pin_accumulator(flat(weights));
        if (tiles == 1) owner_ring.release(0);
        weigh(weights, 0, state.stage, factor);
        pack(weights, fragments);
        for (uint32_t tile = 1; tile < tiles; ++tile) {
            const uint32_t before = state.stage;
            state.advance();
            wait_ping_pong();
            ring.wait(state);
            issue_logits(weights, state.stage);
            issue_sums(fragments, before);
            pass_ping_pong();
            wgmma_wait<1>();
            pin_accumulator(flat(weights));
            if (tile + 1 == tiles) owner_ring.release(0);
            weigh(weights, tile, state.stage, factor);
            // A loop of one iteration (D is at least 1): without it ptxas waits before the exponentials.
            do wgmma_wait<0>();
            while (p.dim == 0);
            pin_accumulator(flat(sums));
            ring.release(before);
            if (ONLINE) Owned::rescale(factor);
            pack(weights, fragments);
        }
        issue_sums(fragments, state.stage);
        wgmma_wait<0>();
        pin_accumulator(flat(sums));
        ring.release(state.stage);
        state.advance();
    }

    INFONCE_DEVICE void wait_ping_pong() const { named_barrier(PING_PONG + group, CONSUMERS); }
    INFONCE_DEVICE void pass_ping_pong() const { named_arrive(PING_PONG + 1 - group, CONSUMERS); }

    template <int COUNT>
    INFONCE_DEVICE static float (&flat(float (&blocks)[COUNT][4]))[4 * COUNT] {
        return reinterpret_cast<float(&)[4 * COUNT]>(blocks);
    }

    INFONCE_DEVICE void issue_logits(Weights& weights, uint32_t stage) const {
        pin_accumulator(flat(weights));
        wgmma_fence();
        INFONCE_UNROLL
        for (uint32_t slab = 0; slab < uint32_t(SLABS); ++slab) {
            const MatrixDescriptor a = describe_matrix(owner_slabs + slab * OWNER_SLAB + group * 64 * SLAB_BYTES, 16);
            const MatrixDescriptor b = describe_matrix(stages + stage * STAGE + slab * STREAMED_SLAB, 16);
            INFONCE_UNROLL
            for (uint32_t step = 0; step < 4; ++step)
                WarpgroupProduct<T, COLUMNS>::template shared<false, false>(flat(weights), a + step * 32, b + step * 32,
                                                                            slab > 0 || step > 0);
        }
        wgmma_commit();
    }

    INFONCE_DEVICE void issue_sums(const Fragments& fragments, uint32_t stage) {
        pin_accumulator(flat(sums));
        wgmma_fence();
        const MatrixDescriptor b = describe_matrix(stages + stage * STAGE, STREAMED_SLAB);
        INFONCE_UNROLL
        for (uint32_t step = 0; step < uint32_t(STEPS); ++step)
            WarpgroupProduct<T, DIM>::template registers<true>(flat(sums), fragments[step], b + step * 16 * SLAB_BYTES,
                                                               true);
        wgmma_commit();
    }

    INFONCE_DEVICE void weigh(Weights& weights, uint32_t tile, uint32_t stage, float (&factor)[2]) {
        const uint32_t first_column = (first_tile + tile) * COLUMNS;
        if constexpr (ONLINE) {
            Owned::weigh_online(weights, first_column, factor);
        } else {
            const SharedAddress own = streamed_rows + stage * ROWS_BYTES + 4 * Owned::column(0, 0, 0);
            Owned::template weigh_terms<OWNER_TERM, STREAMED_TERM>(
                weights, first_column, [&](int block) { return load_shared<Pair>(own + 32 * block); },
                [&](int block) { return load_shared<PairOwners>(own + TERMS_BYTES + 32 * block); });
        }
    }

    // Two blocks of 8 columns are, as they lie, the left operand of a step of 16.
    INFONCE_DEVICE static void pack(const Weights& weights, Fragments& fragments) {
        INFONCE_UNROLL
        for (int step = 0; step < STEPS; ++step)
            INFONCE_UNROLL
            for (int i = 0; i < 4; ++i) {
                const float(&block)[4] = weights[2 * step + i / 2];
                fragments[step][i] = Element<T>::pack(block[i % 2 * 2], block[i % 2 * 2 + 1]);
            }
    }
};

#if INFONCE_HOPPER
#define INFONCE_BUILD(KERNEL, TERMS) \
    INFONCE_PROLOGUE_KERNEL(KERNEL, HopperGradientParams) { HopperGradient<list::KERNEL, Terms::TERMS>::run(p); }
#define INFONCE_ONLINE(KERNEL, ...) INFONCE_BUILD(KERNEL, ONLINE)
#define INFONCE_OWNER(KERNEL, ...) INFONCE_BUILD(KERNEL, OWNER)
#define INFONCE_STREAMED(KERNEL, ...) INFONCE_BUILD(KERNEL, STREAMED)
#define INFONCE_BOTH(KERNEL, ...) INFONCE_BUILD(KERNEL, BOTH)

INFONCE_HOPPER_GRADIENT(INFONCE_ONLINE, hopper_gradient_online)
INFONCE_HOPPER_GRADIENT(INFONCE_OWNER, hopper_gradient_owner)
INFONCE_HOPPER_GRADIENT_STREAMED(INFONCE_STREAMED, hopper_gradient_streamed)
INFONCE_HOPPER_GRADIENT_BOTH(INFONCE_BOTH, hopper_gradient_both)
#endif

}  // namespace infonce
