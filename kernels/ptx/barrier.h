// Barriers of a block, of a warp, and of some warps of a block (bar.sync, bar.warp.sync, bar.arrive).
#pragma once

#include "ptx/kernel.h"

namespace infonce {

#ifdef __CUDACC__
INFONCE_DEVICE void block_barrier() { asm volatile("bar.sync 0;" ::: "memory"); }
INFONCE_DEVICE void warp_barrier() { asm volatile("bar.warp.sync 0xffffffff;" ::: "memory"); }
// Barrier `number`, 1 to 15, waits for `threads` threads (whole warps). Barrier 0 is block_barrier's.
INFONCE_DEVICE void named_barrier(uint32_t number, uint32_t threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
// Arrives at barrier `number` as one of its `threads`, and does not wait.
INFONCE_DEVICE void named_arrive(uint32_t number, uint32_t threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
#else
inline void block_barrier(INFONCE_SITE) { emulator::block_barrier(site); }
inline void warp_barrier(INFONCE_SITE) { emulator::warp_barrier(site); }
inline void named_barrier(uint32_t number, uint32_t threads, INFONCE_SITE) {
    emulator::named_barrier(number, threads, true, site);
}
inline void named_arrive(uint32_t number, uint32_t threads, INFONCE_SITE) {
    emulator::named_barrier(number, threads, false, site);
}
#endif

}  // namespace infonce
