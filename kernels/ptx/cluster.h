// Clusters: blocks that run at the same time and reach each other's shared memory (sm_90). A kernel of
// clusters is an INFONCE_CLUSTER_KERNEL (ptx/kernel.h). Names in quotes are sections of the PTX ISA.
//
// A block's shared memory is there from when it has started until its last thread ends: a barrier of the
// cluster comes after the mbarriers' initialisation, before any other block uses them, and another one
// before the end, after the last arrival and the last copy from another block.
#pragma once

#include "ptx/kernel.h"
#include "ptx/shared.h"

namespace infonce {

// A place in the shared memory of some block of the cluster (.shared::cluster). What works on the own
// block's shared memory does not take it.
using ClusterAddress = uint32_t;

#ifdef __CUDACC__

// Of this block in its cluster: block_index().x mod the cluster's size ("%cluster_ctarank").
INFONCE_DEVICE uint32_t cluster_rank() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// Among all threads of the cluster that have not ended; what one did before, all see after
// ("barrier.cluster": wait returns when all non-exited threads have arrived). Not `.aligned`, so
// that warps may come in parts.
INFONCE_DEVICE void cluster_barrier() {
    asm volatile(
        "barrier.cluster.arrive.release;\n"
        "barrier.cluster.wait.acquire;" ::
            : "memory");
}

// Where another block has what this one has at `address` ("mapa").
INFONCE_DEVICE ClusterAddress cluster_address(SharedAddress address, uint32_t rank) {
    ClusterAddress mapped;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
    return mapped;
}

// Arrives at another block's mbarrier ("mbarrier.arrive": in .shared::cluster without a state; only the
// block that has it can wait). Says that a stage has been read, which a copy may then overwrite.
// Without scope it releases within the block: .release.cluster, which would hand over what this thread
// has written, is a fence of the whole device (MEMBAR.ALL.GPU) at each arrival.
INFONCE_DEVICE void mbarrier_arrive_remote(ClusterAddress barrier) {
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

#else

inline uint32_t cluster_rank() { return emulator::current.rank; }
inline void cluster_barrier(INFONCE_SITE) { emulator::cluster_barrier(site); }
inline ClusterAddress cluster_address(SharedAddress address, uint32_t rank, INFONCE_SITE) {
    return emulator::cluster_address(address, rank, site);
}
inline void mbarrier_arrive_remote(ClusterAddress barrier, INFONCE_SITE) { emulator::mbarrier_arrive_remote(barrier, site); }

#endif

}  // namespace infonce
