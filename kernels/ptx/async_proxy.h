// The proxy fence (fence.proxy.async, sm_90) between what threads store and what asynchronous operations read.
//
// Box stores and wgmma read shared memory through the asynchronous proxy. Without this fence they may miss ordinary
// stores (store_shared, store_matrices, a finished copy_async_16). The thread that stored executes the fence, then
// synchronises with the thread that issues the operation. PTX ISA, "Async Proxy", "membar/fence", "Asynchronous
// Warpgroup Level Matrix Instructions".
#pragma once

#include "ptx/kernel.h"

namespace infonce {

#ifdef __CUDACC__
INFONCE_DEVICE void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
#else
inline void fence_async_proxy(INFONCE_SITE) { emulator::fence_async_proxy(site); }
#endif

}  // namespace infonce
