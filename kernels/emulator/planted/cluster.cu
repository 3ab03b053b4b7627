// a·bᵀ in bf16 by clusters of two CTAs. Each has 64 rows of a for itself, and both process all rows of b, 64 at a time.
// One thread of each block copies its slab of a, and half of b's slab into both blocks; four warps multiply. A stage is
// full when both halves have come to its block, and empty when the warps of both blocks have read theirs, because
// either block's half overwrites both. Copies run ahead from tile to tile. A tile of sums is stored through shared
// memory as one box, two boxes in flight.
//   planted_cluster_own_release   a stage is released to the own block alone
//   planted_cluster_one_release   one warp of four releases a stage to the other block, too
//   planted_cluster_early_use     no cluster barrier after the mbarriers' initialisation
//   planted_cluster_early_end     no cluster barrier before the end
//   planted_cluster_few_bytes     a block announces only the bytes that it copies itself
//   planted_cluster_fence         the second block's threads write their elements with no fence
//   planted_cluster_overwrite     the second block overwrites a box that may still be read
//   planted_cluster_leaves        the storing thread ends while its boxes may still be read
// planted_cluster_mistakes has one mistake a case, each on one line; case 0 is sound.
#include "emulator/planted/product.h"
#include "ptx/async_proxy.h"
#include "ptx/convert.h"
#include "ptx/stmatrix.h"
#include "ptx/tensor_store.h"

namespace infonce {

struct ClusterParams {
    TensorMap a;     // rows × k, boxes of 64 rows
    TensorMap b;     // columns × k, boxes of 32 rows
    TensorMap d;     // rows × columns, boxes of 64 rows
    uint32_t slabs;  // of 64 of k
    uint32_t tiles;  // of 64 columns
};

enum class ClusterFault { NONE, OWN_RELEASE, ONE_RELEASE, EARLY_USE, EARLY_END, FEW_BYTES, FENCE, OVERWRITE, LEAVES };

constexpr uint32_t HALF_SLAB = OPERAND_BYTES / PAIR, CONSUMER_WARPS = WARPGROUP / 32;

// Arrivals that empty a stage.
template <ClusterFault FAULT>
constexpr uint32_t RELEASES = FAULT == ClusterFault::OWN_RELEASE   ? CONSUMER_WARPS
                              : FAULT == ClusterFault::ONE_RELEASE ? CONSUMER_WARPS + 1
                                                                   : PAIR * CONSUMER_WARPS;

// The producer.
template <ClusterFault FAULT>
INFONCE_DEVICE void copy_pair(const ClusterParams& p, const OperandRing& ring) {
    const uint32_t half = cluster_rank();
    PipelineState<2> state;
    for (uint32_t round = 0; round < p.tiles * p.slabs; ++round, state.advance()) {
        const uint32_t slab = round % p.slabs, tile = round / p.slabs;
        const uint32_t bytes = FAULT == ClusterFault::FEW_BYTES ? OPERAND_BYTES + HALF_SLAB : 2 * OPERAND_BYTES;
        const SharedAddress arrived = ring.fill(state, bytes), b = ring.b(state.stage) + half * HALF_SLAB;
        copy_box(ring.a(state.stage), p.a, 64 * slab, 64 * block_index().x, arrived);
        multicast_box(b, p.b, 64 * slab, 64 * tile + 32 * half, arrived, BOTH_BLOCKS);  // copied
    }
}

// A consumer warpgroup: the sums of one tile.
template <ClusterFault FAULT>
INFONCE_DEVICE void multiply_tile(float (&sums)[32], const ClusterParams& p, const OperandRing& ring,
                                  PipelineState<2>& state) {
    const uint32_t lane = thread_index() % 32;
    for (uint32_t slab = 0; slab < p.slabs; ++slab, state.advance()) {
        mbarrier_wait(ring.full(state.stage), state.parity);  // filled
        multiply_slabs(sums, ring.a(state.stage), ring.b(state.stage), slab > 0);  // multiplied
        const SharedAddress left = ring.empty(state.stage);
        if (FAULT == ClusterFault::OWN_RELEASE || (FAULT == ClusterFault::ONE_RELEASE && thread_index() >= 32)) {
            if (lane == 0) mbarrier_arrive(left);
        } else if (lane < PAIR) {
            mbarrier_arrive_remote(cluster_address(left, lane));  // handed back
        }
    }
}

// A consumer warpgroup: the tile becomes a box in slab form, which one thread stores.
template <ClusterFault FAULT>
INFONCE_DEVICE void store_tile(const float (&sums)[32], const ClusterParams& p, uint32_t tile) {
    const SharedAddress box = shared_base() + (4 + tile % 2) * OPERAND_BYTES;
    const uint32_t lane = thread_index() % 32, row = thread_index() / 32 * 16 + lane % 16;
    const bool second = cluster_rank() == 1;
    if (thread_index() == 0 && !(FAULT == ClusterFault::OVERWRITE && second)) wait_stores_read<1>();
    named_barrier(1, WARPGROUP);
    for (uint32_t pair = 0; pair < 4; ++pair) {
        const float* s = sums + 8 * pair;
        const uint32_t r[4] = {pack_bf16(s[0], s[1]), pack_bf16(s[2], s[3]), pack_bf16(s[4], s[5]), pack_bf16(s[6], s[7])};
        store_matrices(box + row * 128 + ((2 * pair + lane / 16) ^ row % 8) * 16, r);
    }
    if (!(FAULT == ClusterFault::FENCE && second)) fence_async_proxy();
    named_barrier(1, WARPGROUP);
    if (thread_index() > 0) return;
    store_box(p.d, 64 * tile, 64 * block_index().x, box);
    commit_stores();
}

template <ClusterFault FAULT>
INFONCE_DEVICE void multiply_pair(const ClusterParams& p) {
    const OperandRing ring(6 * OPERAND_BYTES);
    if (thread_index() == 0) {
        ring.init(RELEASES<FAULT>);
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
        copy_pair<FAULT>(p, ring);
    } else {
        take_registers<64>();
        float sums[32];
        PipelineState<2> state;
        for (uint32_t tile = 0; tile < p.tiles; ++tile) {
            multiply_tile<FAULT>(sums, p, ring, state);
            store_tile<FAULT>(sums, p, tile);
        }
        if (FAULT != ClusterFault::LEAVES) wait_stores_read<0>();
    }
    if (FAULT != ClusterFault::EARLY_END) cluster_barrier();
}

INFONCE_PLANTED_CLUSTER(planted_cluster_own_release, ClusterParams, 256, PAIR) { multiply_pair<ClusterFault::OWN_RELEASE>(p); }
INFONCE_PLANTED_CLUSTER(planted_cluster_one_release, ClusterParams, 256, PAIR) { multiply_pair<ClusterFault::ONE_RELEASE>(p); }
INFONCE_PLANTED_CLUSTER(planted_cluster_early_use, ClusterParams, 256, PAIR) { multiply_pair<ClusterFault::EARLY_USE>(p); }
INFONCE_PLANTED_CLUSTER(planted_cluster_early_end, ClusterParams, 256, PAIR) { multiply_pair<ClusterFault::EARLY_END>(p); }
INFONCE_PLANTED_CLUSTER(planted_cluster_few_bytes, ClusterParams, 256, PAIR) { multiply_pair<ClusterFault::FEW_BYTES>(p); }
INFONCE_PLANTED_CLUSTER(planted_cluster_fence, ClusterParams, 256, PAIR) { multiply_pair<ClusterFault::FENCE>(p); }
INFONCE_PLANTED_CLUSTER(planted_cluster_overwrite, ClusterParams, 256, PAIR) { multiply_pair<ClusterFault::OVERWRITE>(p); }
INFONCE_PLANTED_CLUSTER(planted_cluster_leaves, ClusterParams, 256, PAIR) { multiply_pair<ClusterFault::LEAVES>(p); }
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
