// Asynchronous copies from global to shared memory (cp.async, sm_80).
#pragma once

#include "ptx/kernel.h"
#include "ptx/shared.h"

namespace infonce {

#ifdef __CUDACC__
// 16 bytes. If not `valid`, writes zeros and does not read `source`.
INFONCE_DEVICE void copy_async_16(SharedAddress to, const void* source, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to),
                 "l"(__cvta_generic_to_global(source)), "r"(valid ? 16 : 0)
                 : "memory");
}
// Commits this thread's copies since the last commit as one group.
INFONCE_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most PENDING of this thread's newest groups are pending.
template <int PENDING>
INFONCE_DEVICE void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
#else
inline void copy_async_16(SharedAddress to, const void* source, bool valid, INFONCE_SITE) {
    emulator::copy_async_16(to, source, valid, site);
}
inline void commit_copies(INFONCE_SITE) { emulator::commit_copies(site); }
template <int PENDING>
inline void wait_copies(INFONCE_SITE) {
    emulator::wait_copies(PENDING, site);
}
#endif

}  // namespace infonce
