// A product of two row tiles by a cluster of two CTAs: each has 64 rows of a for itself, and both have the same 64 of
// b. One thread of each block copies its slab of a, and half of b's slab into both blocks; four warps multiply. A stage
// is full when both halves have come to its block, and empty when the warps of both blocks have read theirs, because
// either block's half overwrites both.
//   planted_cluster_own_release   a stage is released to the own block alone
//   planted_cluster_one_release   one warp of four releases a stage to the other block, too
//   planted_cluster_early_use     no cluster barrier after the mbarriers' initialisation
//   planted_cluster_early_end     no cluster barrier before the end
//   planted_cluster_few_bytes     a block announces only the bytes that it copies itself
// planted_cluster_mistakes has one mistake a case, each on one line; case 0 is sound.
#include "ptx/barrier.h"
#include "ptx/cluster.h"
#include "ptx/global.h"
#include "ptx/kernel.h"
#include "ptx/mbarrier.h"
#include "ptx/registers.h"
#include "ptx/shared.h"
#include "ptx/tensor_copy.h"
#include "ptx/wgmma.h"

namespace infonce {

struct ClusterParams {
    TensorMap a;     // rows × k, boxes of 64 rows
    TensorMap b;     // 64 × k, boxes of 32 rows
    float* d;        // rows × 64
    uint32_t slabs;  // of 64 of k
};

enum class ClusterFault { NONE, OWN_RELEASE, ONE_RELEASE, EARLY_USE, EARLY_END, FEW_BYTES };

constexpr uint32_t PAIR = 2, CLUSTER_STAGES = 2, CLUSTER_SLAB = 64 * 128, HALF_SLAB = CLUSTER_SLAB / PAIR;
constexpr uint32_t CONSUMER_WARPS = WARPGROUP / 32;

// Arrivals that empty a stage.
template <ClusterFault FAULT>
constexpr uint32_t RELEASES = FAULT == ClusterFault::OWN_RELEASE   ? CONSUMER_WARPS
                              : FAULT == ClusterFault::ONE_RELEASE ? CONSUMER_WARPS + 1
                                                                   : PAIR * CONSUMER_WARPS;

template <ClusterFault FAULT>
INFONCE_DEVICE void multiply_pair(const ClusterParams& p) {
    const SharedAddress stages = shared_base(), full = stages + CLUSTER_STAGES * 2 * CLUSTER_SLAB;
    const SharedAddress empty = full + CLUSTER_STAGES * MBARRIER_BYTES;
    if (thread_index() == 0) {
        for (uint32_t stage = 0; stage < CLUSTER_STAGES; ++stage) {
            mbarrier_init(full + stage * MBARRIER_BYTES, 1);
            mbarrier_init(empty + stage * MBARRIER_BYTES, RELEASES<FAULT>);
        }
        fence_mbarrier_init();
    }
    if (FAULT == ClusterFault::EARLY_USE)
        block_barrier();
    else
        cluster_barrier();
    wait_for_launches_before();
    if (thread_index() >= WARPGROUP) {
        give_registers<24>();
        if (thread_index() > WARPGROUP) return;
        const uint32_t half = cluster_rank();
        for (uint32_t slab = 0; slab < p.slabs; ++slab) {
            const uint32_t stage = slab % CLUSTER_STAGES, round = slab / CLUSTER_STAGES;
            const SharedAddress to = stages + stage * 2 * CLUSTER_SLAB, arrived = full + stage * MBARRIER_BYTES;
            if (round > 0) mbarrier_wait(empty + stage * MBARRIER_BYTES, (round - 1) % 2);
            mbarrier_arrive_expect(arrived, FAULT == ClusterFault::FEW_BYTES ? CLUSTER_SLAB + HALF_SLAB : 2 * CLUSTER_SLAB);
            copy_box(to, p.a, 64 * slab, 64 * block_index().x, arrived);
            multicast_box(to + CLUSTER_SLAB + half * HALF_SLAB, p.b, 64 * slab, 32 * half, arrived, 0b11);  // copied
        }
        if (FAULT != ClusterFault::EARLY_END) cluster_barrier();
        return;
    }
    take_registers<64>();
    float d[32];
    for (uint32_t slab = 0; slab < p.slabs; ++slab) {
        const uint32_t stage = slab % CLUSTER_STAGES, round = slab / CLUSTER_STAGES;
        const SharedAddress from = stages + stage * 2 * CLUSTER_SLAB, left = empty + stage * MBARRIER_BYTES;
        mbarrier_wait(full + stage * MBARRIER_BYTES, round % 2);  // filled
        const MatrixDescriptor a = describe_matrix(from, 16), b = describe_matrix(from + CLUSTER_SLAB, 16);
        pin_accumulator(d);
        wgmma_fence();
        INFONCE_UNROLL
        for (uint32_t step = 0; step < 4; ++step)
            WarpgroupProduct<bf16, 64>::shared<false, false>(d, a + step * 32, b + step * 32, slab > 0 || step > 0);  // multiplied
        wgmma_commit();
        wgmma_wait<0>();
        pin_accumulator(d);
        if (FAULT == ClusterFault::OWN_RELEASE || (FAULT == ClusterFault::ONE_RELEASE && thread_index() >= 32)) {
            if (thread_index() % 32 == 0) mbarrier_arrive(left);
        } else if (thread_index() % 32 < PAIR) {
            mbarrier_arrive_remote(cluster_address(left, thread_index() % 32));  // handed back
        }
    }
    const uint32_t row = block_index().x * 64 + thread_index() / 32 * 16 + thread_index() % 32 / 4, column = thread_index() % 4 * 2;
    INFONCE_UNROLL
    for (uint32_t i = 0; i < 32; ++i)
        store_global(p.d + (row + i / 2 % 2 * 8) * 64 + i / 4 * 8 + column + i % 2, d[i]);
    if (FAULT != ClusterFault::EARLY_END) cluster_barrier();
}

INFONCE_PLANTED_CLUSTER(planted_cluster_own_release, ClusterParams, 256, PAIR) { multiply_pair<ClusterFault::OWN_RELEASE>(p); }
INFONCE_PLANTED_CLUSTER(planted_cluster_one_release, ClusterParams, 256, PAIR) { multiply_pair<ClusterFault::ONE_RELEASE>(p); }
INFONCE_PLANTED_CLUSTER(planted_cluster_early_use, ClusterParams, 256, PAIR) { multiply_pair<ClusterFault::EARLY_USE>(p); }
INFONCE_PLANTED_CLUSTER(planted_cluster_early_end, ClusterParams, 256, PAIR) { multiply_pair<ClusterFault::EARLY_END>(p); }
INFONCE_PLANTED_CLUSTER(planted_cluster_few_bytes, ClusterParams, 256, PAIR) { multiply_pair<ClusterFault::FEW_BYTES>(p); }
INFONCE_PLANTED_CLUSTER(planted_cluster_sound, ClusterParams, 256, PAIR) { multiply_pair<ClusterFault::NONE>(p); }

struct ClusterMistakeParams {
    TensorMap b;  // boxes of 32 rows
    float* ranks;  // one a block
    uint32_t mistake;
};

INFONCE_PLANTED_CLUSTER(planted_cluster_mistakes, ClusterMistakeParams, 64, PAIR) {
    const SharedAddress box = shared_base(), barrier = box + HALF_SLAB;
    const uint32_t rank = cluster_rank();
    if (thread_index() == 0) {
        if (p.mistake != 5 || rank == 0) mbarrier_init(barrier, 1);
        if (p.mistake != 6 || rank == 0) fence_mbarrier_init();
    }
    cluster_barrier();
    wait_for_launches_before();
    store_global(p.ranks + block_index().x, float(rank));
    if (thread_index() == 0 && rank == 0) {
        const ClusterAddress other = cluster_address(barrier, 1);
        switch (p.mistake) {
            case 0: mbarrier_arrive_remote(other); break;
            case 1: mbarrier_arrive(other); break;                                 // planted 1
            case 2: mbarrier_arrive_remote(barrier); break;                        // planted 2
            case 3: mbarrier_arrive_remote(cluster_address(barrier, PAIR)); break;  // planted 3
            case 4: multicast_box(box, p.b, 0, 0, barrier, 0b110); break;          // planted 4
            case 5:
            case 6: multicast_box(box, p.b, 0, 0, barrier, 0b10); break;           // planted 5
            case 7: multicast_box(box, p.b, 0, 0, barrier, 0b10); break;           // planted 7
            case 8:
                mbarrier_arrive_remote(other);
                mbarrier_arrive_remote(cluster_address(barrier + 8, 1));  // planted 8
                break;
            case 9: mbarrier_arrive_remote(other); break;                          // planted 9
            default: break;
        }
    }
    // Case 9: the other block has ended, or ends, when the arrival comes.
    if (p.mistake != 9) cluster_barrier();
}

}  // namespace infonce
