// a·bᵀ in bf16 by clusters of two CTAs: each has 64 rows of a, and both process all columns, 64 at a time. Each block
// copies half of a slab of b into both; copies run ahead from tile to tile through a ring of stages. A tile of sums is
// stored through shared memory as one box, two boxes in flight.
//   planted_pair_store_fence      the second block's threads write their elements with no fence
//   planted_pair_store_overwrite  the second block overwrites a box that may still be read
//   planted_pair_store_leaves     the storing thread ends while its boxes may still be read
#include "ptx/async_proxy.h"
#include "ptx/barrier.h"
#include "ptx/cluster.h"
#include "ptx/convert.h"
#include "ptx/kernel.h"
#include "ptx/mbarrier.h"
#include "ptx/registers.h"
#include "ptx/shared.h"
#include "ptx/stmatrix.h"
#include "ptx/tensor_copy.h"
#include "ptx/tensor_store.h"
#include "ptx/wgmma.h"

namespace infonce {

struct PairStoreParams {
    TensorMap a;     // rows × k, boxes of 64 rows
    TensorMap b;     // columns × k, boxes of 32 rows
    TensorMap d;     // rows × columns, boxes of 64 rows
    uint32_t slabs;  // of 64 of k
    uint32_t tiles;  // of 64 columns
};

enum class PairFault { NONE, FENCE, OVERWRITE, LEAVES };

constexpr uint32_t PAIR_STAGES = 2, PAIR_SLAB = 64 * 128, PAIR_HALF = PAIR_SLAB / 2, PAIR_WARPS = WARPGROUP / 32;

struct PairRing {
    SharedAddress stages, full, empty, boxes;

    INFONCE_DEVICE PairRing() {
        stages = shared_base();
        boxes = stages + PAIR_STAGES * 2 * PAIR_SLAB;
        full = boxes + 2 * PAIR_SLAB;
        empty = full + PAIR_STAGES * MBARRIER_BYTES;
    }
    INFONCE_DEVICE void initialise() const {
        if (thread_index() != 0) return;
        for (uint32_t stage = 0; stage < PAIR_STAGES; ++stage) {
            mbarrier_init(full + stage * MBARRIER_BYTES, 1);
            mbarrier_init(empty + stage * MBARRIER_BYTES, 2 * PAIR_WARPS);
        }
        fence_mbarrier_init();
    }
};

// The producer.
INFONCE_DEVICE void copy_pair(const PairStoreParams& p, const PairRing& ring) {
    const uint32_t half = cluster_rank();
    for (uint32_t round = 0; round < p.tiles * p.slabs; ++round) {
        const uint32_t stage = round % PAIR_STAGES, slab = round % p.slabs, tile = round / p.slabs;
        const SharedAddress to = ring.stages + stage * 2 * PAIR_SLAB, arrived = ring.full + stage * MBARRIER_BYTES;
        if (round >= PAIR_STAGES) mbarrier_wait(ring.empty + stage * MBARRIER_BYTES, (round / PAIR_STAGES - 1) % 2);
        mbarrier_arrive_expect(arrived, 2 * PAIR_SLAB);
        copy_box(to, p.a, 64 * slab, 64 * block_index().x, arrived);
        multicast_box(to + PAIR_SLAB + half * PAIR_HALF, p.b, 64 * slab, 64 * tile + 32 * half, arrived, 0b11);
    }
}

// A consumer warpgroup: the sums of one tile. `round` counts the slabs of all tiles; it gives stage and parity.
INFONCE_DEVICE void multiply_pair_tile(float (&sums)[32], const PairStoreParams& p, const PairRing& ring, uint32_t round) {
    for (uint32_t slab = 0; slab < p.slabs; ++slab, ++round) {
        const uint32_t stage = round % PAIR_STAGES;
        const SharedAddress from = ring.stages + stage * 2 * PAIR_SLAB;
        mbarrier_wait(ring.full + stage * MBARRIER_BYTES, round / PAIR_STAGES % 2);
        const MatrixDescriptor a = describe_matrix(from, 16), b = describe_matrix(from + PAIR_SLAB, 16);
        pin_accumulator(sums);
        wgmma_fence();
        INFONCE_UNROLL
        for (uint32_t step = 0; step < 4; ++step)
            WarpgroupProduct<bf16, 64>::shared<false, false>(sums, a + step * 32, b + step * 32, slab > 0 || step > 0);
        wgmma_commit();
        wgmma_wait<0>();
        pin_accumulator(sums);
        if (thread_index() % 32 < 2)
            mbarrier_arrive_remote(cluster_address(ring.empty + stage * MBARRIER_BYTES, thread_index() % 32));
    }
}

// A consumer warpgroup: the tile becomes a box in slab form, which one thread stores.
template <PairFault FAULT>
INFONCE_DEVICE void store_pair_tile(const float (&sums)[32], const PairStoreParams& p, const PairRing& ring, uint32_t tile) {
    const SharedAddress box = ring.boxes + tile % 2 * PAIR_SLAB;
    const uint32_t lane = thread_index() % 32, row = thread_index() / 32 * 16 + lane % 16;
    const bool second = cluster_rank() == 1;
    if (thread_index() == 0 && !(FAULT == PairFault::OVERWRITE && second)) wait_stores_read<1>();
    named_barrier(1, WARPGROUP);
    INFONCE_UNROLL
    for (uint32_t pair = 0; pair < 4; ++pair) {
        const float* s = sums + 8 * pair;
        const uint32_t r[4] = {pack_bf16(s[0], s[1]), pack_bf16(s[2], s[3]), pack_bf16(s[4], s[5]), pack_bf16(s[6], s[7])};
        store_matrices(box + row * 128 + ((2 * pair + lane / 16) ^ row % 8) * 16, r);  // overwritten
    }
    if (!(FAULT == PairFault::FENCE && second)) fence_async_proxy();
    named_barrier(1, WARPGROUP);
    if (thread_index() > 0) return;
    store_box(p.d, 64 * tile, 64 * block_index().x, box);  // stored
    commit_stores();
}

template <PairFault FAULT>
INFONCE_DEVICE void multiply_and_store(const PairStoreParams& p) {
    const PairRing ring;
    ring.initialise();
    if (thread_index() == WARPGROUP) {
        prefetch_map(p.a);
        prefetch_map(p.b);
        prefetch_map(p.d);
    }
    cluster_barrier();
    wait_for_launches_before();
    if (thread_index() >= WARPGROUP) {
        give_registers<24>();
        if (thread_index() > WARPGROUP) return;
        copy_pair(p, ring);
    } else {
        take_registers<64>();
        float sums[32];
        for (uint32_t tile = 0; tile < p.tiles; ++tile) {
            multiply_pair_tile(sums, p, ring, tile * p.slabs);
            store_pair_tile<FAULT>(sums, p, ring, tile);
        }
        if (FAULT != PairFault::LEAVES) wait_stores_read<0>();
    }
    cluster_barrier();
}

INFONCE_PLANTED_CLUSTER(planted_pair_store_fence, PairStoreParams, 256, 2) { multiply_and_store<PairFault::FENCE>(p); }
INFONCE_PLANTED_CLUSTER(planted_pair_store_overwrite, PairStoreParams, 256, 2) { multiply_and_store<PairFault::OVERWRITE>(p); }
INFONCE_PLANTED_CLUSTER(planted_pair_store_leaves, PairStoreParams, 256, 2) { multiply_and_store<PairFault::LEAVES>(p); }
INFONCE_PLANTED_CLUSTER(planted_pair_store_sound, PairStoreParams, 256, 2) { multiply_and_store<PairFault::NONE>(p); }

}  // namespace infonce
