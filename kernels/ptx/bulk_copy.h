// Bulk copies: a contiguous range from global to shared memory by one instruction of one thread
// (cp.async.bulk, sm_90). Their completion is counted in bytes by an mbarrier, which must have been
// told how many to expect.
#pragma once

#include "ptx/kernel.h"
#include "ptx/mbarrier.h"
#include "ptx/shared.h"

namespace infonce {

// Both addresses and `bytes` are multiples of 16.
#ifdef __CUDACC__
INFONCE_DEVICE void copy_bulk(SharedAddress to, const void* from, uint32_t bytes, SharedAddress barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(barrier)
                 : "memory");
}
#else
inline void copy_bulk(SharedAddress to, const void* from, uint32_t bytes, SharedAddress barrier, INFONCE_SITE) {
    host::copy_bulk(to, from, bytes, barrier, site);
}
#endif

}  // namespace infonce
