// Barriers of a block and of a warp.
#pragma once

#include "ptx/kernel.h"

namespace infonce {

#ifdef __CUDACC__
INFONCE_DEVICE void block_barrier() { asm volatile("bar.sync 0;" ::: "memory"); }
INFONCE_DEVICE void warp_barrier() { asm volatile("bar.warp.sync 0xffffffff;" ::: "memory"); }
#else
inline void block_barrier(INFONCE_SITE) { host::block_barrier(site); }
inline void warp_barrier(INFONCE_SITE) { host::warp_barrier(site); }
#endif

}  // namespace infonce
