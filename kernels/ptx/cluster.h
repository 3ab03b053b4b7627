// Clusters (sm_90): blocks that run at the same time and reach each other's shared memory. A kernel of clusters is an
// INFONCE_CLUSTER_KERNEL (ptx/kernel.h). Names in quotes are sections of the PTX ISA.
//
// A block's shared memory exists from the block's start until its last thread ends. So one cluster barrier follows the
// initialisation of mbarriers, before another block uses them, and one comes before the end, after the last arrival and
// the last copy from another block.
#pragma once

#include "ptx/kernel.h"
#include "ptx/shared.h"

namespace infonce {

// An address in the shared memory of any block of the cluster (.shared::cluster). Functions of a block's own shared
// memory take a SharedAddress.
using ClusterAddress = uint32_t;

#ifdef __CUDACC__

// This block's rank in its cluster: block_index().x mod the cluster's size ("%cluster_ctarank").
INFONCE_DEVICE uint32_t cluster_rank() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// A barrier of all threads of the cluster that have not ended; releases and acquires ("barrier.cluster"). Without
// `.aligned`: the threads of a warp may arrive diverged.
INFONCE_DEVICE void cluster_barrier() {
    asm volatile(
        "barrier.cluster.arrive.release;\n"
        "barrier.cluster.wait.acquire;" ::
            : "memory");
}

// The address in block `rank` that corresponds to `address` in this block ("mapa").
INFONCE_DEVICE ClusterAddress cluster_address(SharedAddress address, uint32_t rank) {
    ClusterAddress mapped;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
    return mapped;
}

// Arrives at another block's mbarrier: a stage has been read and may be overwritten. Only the owning block can wait
// ("mbarrier.arrive"). The default scope releases within the block. `.release.cluster`, which would also hand over this
// thread's writes, is a device-wide fence (MEMBAR.ALL.GPU) at each arrival.
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
