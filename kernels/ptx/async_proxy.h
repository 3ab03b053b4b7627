// The fence between what threads store and what asynchronous operations read (fence.proxy.async, sm_90).
// Box stores and products of a warpgroup read shared memory through a proxy of their own, which need not
// see what was stored there by ordinary instructions (store_shared, store_matrices, copy_async_16 once it
// is waited for). Who has stored says so with this fence, then meets who issues the operation. PTX ISA,
// "Async Proxy", "membar/fence"; products, "Asynchronous Warpgroup Level Matrix Instructions".
#pragma once

#include "ptx/kernel.h"

namespace infonce {

#ifdef __CUDACC__
INFONCE_DEVICE void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
#else
inline void fence_async_proxy(INFONCE_SITE) { emulator::fence_async_proxy(site); }
#endif

}  // namespace infonce
