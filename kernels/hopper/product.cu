// sums (+)= W · V or Wᵀ · V (similarity/product.cu) with wgmma: 128 × 256 sums a block, in the registers of two
// consumer warpgroups; one thread of the third is the producer. A stage holds 64 elements of the summed axis:
//
//   W of W·V    the summed axis lies along rows: one box of 128 rows
//   W of Wᵀ·V   the summed axis lies across rows: two boxes of 64 rows × 64 elements, one a consumer
//   V           the same, four boxes; each CTA of a cluster multicasts two of them, because both CTAs have the same
//               columns and neighbouring row tiles
#include "hopper/tile.h"
#include "similarity/product.h"

namespace infonce {

struct HopperProductParams {
    TensorMap left;   // boxes of 128 rows; transposed, of 64
    TensorMap right;  // boxes of 64 rows
    ProductParams product;
    WorkGrid grid;
};

struct ProductTile {
    static constexpr int ROWS = 128, COLUMNS = 256, GROUPS = 2, STAGES = 4;
    static constexpr int CONSUMERS = GROUPS * int(WARPGROUP), THREADS = CONSUMERS + int(WARPGROUP);
    static constexpr int LEFT = ROWS * SLAB_BYTES;
    static constexpr int WIDE = SLAB_ELEMENTS * SLAB_BYTES;  // a box of 64 rows (the summed axis) × 64 elements
    static constexpr int RIGHT = COLUMNS / int(SLAB_ELEMENTS) * WIDE, STAGE = LEFT + RIGHT;
    using Stages = Ring<STAGES, PAIR>;
    static constexpr int SHARED_BYTES = STAGES * STAGE + int(Stages::BYTES);
};

// Where a work tile's sums are, and the slabs of its split of the summed axis.
struct ProductWork {
    uint32_t split, first_row, first_column, first_slab, slabs;

    INFONCE_DEVICE ProductWork(const ProductParams& p, Work work) : split(work.split) {
        // Column tiles vary fastest from cluster to cluster: blocks that run together read the same rows of W.
        const uint32_t across = (p.columns + ProductTile::COLUMNS - 1) / ProductTile::COLUMNS;
        const uint32_t rank = work.tile % PAIR, cluster = work.tile / PAIR;
        first_row = (cluster / across * PAIR + rank) * ProductTile::ROWS;
        first_column = cluster % across * ProductTile::COLUMNS;
        const uint32_t all_slabs = (p.summed + SLAB_ELEMENTS - 1) / SLAB_ELEMENTS;
        first_slab = split * p.slabs_per_split;
        slabs = first_slab < all_slabs ? all_slabs - first_slab : 0;
        if (slabs > p.slabs_per_split) slabs = p.slabs_per_split;
    }
};

// The producer: copies the stages of all work tiles.
template <bool TRANSPOSED>
INFONCE_DEVICE void copy_chunk(const HopperProductParams& p, const ProductTile::Stages& ring, SharedAddress stages) {
    using Tile = ProductTile;
    const uint32_t rank = cluster_rank();
    prefetch_map(p.left);
    prefetch_map(p.right);
    PipelineState<Tile::STAGES> state;
    for (Scheduler<PAIR> scheduler{p.grid}; scheduler.has_work(); scheduler.advance()) {
        const ProductWork work(p.product, scheduler.work());
        for (uint32_t slab = 0; slab < work.slabs; ++slab) {
            const uint32_t summed = (work.first_slab + slab) * SLAB_ELEMENTS;
            const SharedAddress full = ring.fill(state, Tile::STAGE), left = stages + state.stage * Tile::STAGE;
            if (TRANSPOSED) {
                for (uint32_t group = 0; group < uint32_t(Tile::GROUPS); ++group)
                    copy_box(left + group * Tile::WIDE, p.left, work.first_row + group * SLAB_ELEMENTS, summed, full);
            } else {
                copy_box(left, p.left, summed, work.first_row, full);
            }
            for (uint32_t wide = rank; wide < uint32_t(Tile::COLUMNS) / SLAB_ELEMENTS; wide += PAIR)
                multicast_box(left + Tile::LEFT + wide * Tile::WIDE, p.right, work.first_column + wide * SLAB_ELEMENTS,
                              summed, full, BOTH_BLOCKS);
            state.advance();
        }
    }
}

template <class Kernel, bool TRANSPOSED>
INFONCE_DEVICE void multiply_chunk(const HopperProductParams& params) {
    using Tile = ProductTile;
    using T = typename Kernel::T;
    static_assert(list::describes<Kernel, Tile> && Kernel::CLUSTER == PAIR);
    const ProductParams& p = params.product;
    const SharedAddress stages = shared_base();
    const Tile::Stages ring{stages + Tile::STAGES * Tile::STAGE};
    if (thread_index() == 0) {
        ring.init(Tile::CONSUMERS / 32);
        fence_mbarrier_init();
    }
    cluster_barrier();
    wait_for_launches_before();
    if (thread_index() >= uint32_t(Tile::CONSUMERS)) {
        give_registers<40>();
        if (thread_index() == uint32_t(Tile::CONSUMERS)) copy_chunk<TRANSPOSED>(params, ring, stages);
        return;
    }
    take_registers<232>();
    const uint32_t group = same_in_warp(thread_index() / WARPGROUP), lane = thread_index() % 32;
    PipelineState<Tile::STAGES> state;
    for (Scheduler<PAIR> scheduler{params.grid}; scheduler.has_work(); scheduler.advance()) {
        const ProductWork work(p, scheduler.work());
        float sums[Tile::COLUMNS / 2];
        INFONCE_UNROLL
        for (int i = 0; i < Tile::COLUMNS / 2; ++i) sums[i] = 0.0f;
        uint32_t last_stage = 0;
        for (uint32_t slab = 0; slab < work.slabs; ++slab) {
            ring.wait(state);
            const SharedAddress left = stages + state.stage * Tile::STAGE;
            // The next 16 elements of the summed axis are 32 bytes on along rows, 16 rows of 128 bytes on across them.
            const MatrixDescriptor a = describe_matrix(left + group * 64 * SLAB_BYTES, Tile::WIDE);
            const MatrixDescriptor b = describe_matrix(left + Tile::LEFT, Tile::WIDE);
            pin_accumulator(sums);
            wgmma_fence();
            INFONCE_UNROLL
            for (uint32_t step = 0; step < 4; ++step)
                WarpgroupProduct<T, Tile::COLUMNS>::template shared<TRANSPOSED, true>(
                    sums, a + step * (TRANSPOSED ? 2048 : 32), b + step * 2048, true);
            ring.follow(state, last_stage, slab == 0);
        }
        wgmma_wait<0>();
        pin_accumulator(sums);
        if (work.slabs > 0) ring.release(last_stage);
        const float factor = unshifted(p.shift);
        INFONCE_UNROLL
        for (int half = 0; half < 2; ++half) {
            const uint32_t row = work.first_row + thread_index() / 32 * 16 + half * 8 + lane / 4;
            if (row >= p.rows) continue;
            float* to = p.sums + (uint64_t(work.split) * p.rows + row) * p.columns;
            store_sums<Tile::COLUMNS / 8>(to, work.first_column + lane % 4 * 2, p.columns,
                                          TRANSPOSED && p.accumulate, factor,
                                          [&](int j, int side) { return sums[4 * j + 2 * half + side]; });
        }
    }
    // The other block's shared memory exists until all arrivals there have come.
    cluster_barrier();
}

#if INFONCE_HOPPER
#define INFONCE_BUILD(KERNEL, ...) \
    INFONCE_CLUSTER_KERNEL(KERNEL, HopperProductParams) { multiply_chunk<list::KERNEL, false>(p); }
#define INFONCE_BUILD_TRANSPOSED(KERNEL, ...) \
    INFONCE_CLUSTER_KERNEL(KERNEL, HopperProductParams) { multiply_chunk<list::KERNEL, true>(p); }

INFONCE_HOPPER_PRODUCT(INFONCE_BUILD, hopper_product)
INFONCE_HOPPER_PRODUCT(INFONCE_BUILD_TRANSPOSED, hopper_product_transposed)
#endif

}  // namespace infonce
