// mbarriers (sm_90): barriers in shared memory that count arrivals and the bytes of bulk copies. A phase completes when
// all arrivals have come and all announced bytes have been copied. Phases alternate in parity; the first has parity 0.
#pragma once

#include "ptx/kernel.h"
#include "ptx/shared.h"

namespace infonce {

constexpr uint32_t MBARRIER_BYTES = 8;  // also the alignment

#ifdef __CUDACC__

// `count`: arrivals of a phase. Executed by one thread; others may use the mbarrier after a block barrier.
INFONCE_DEVICE void mbarrier_init(SharedAddress barrier, uint32_t count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

// After this thread's initialisations, before the first bulk copy: copies use the asynchronous proxy, which does not
// see ordinary stores without a fence.
INFONCE_DEVICE void fence_mbarrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

INFONCE_DEVICE void mbarrier_arrive(SharedAddress barrier) {
    asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Announces `bytes` of bulk copies to the running phase and arrives.
INFONCE_DEVICE void mbarrier_arrive_expect(SharedAddress barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

// Waits until the phase of this parity has completed. One try_wait waits for a limited time, so it is repeated.
INFONCE_DEVICE void mbarrier_wait(SharedAddress barrier, uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

#else

inline void mbarrier_init(SharedAddress barrier, uint32_t count, INFONCE_SITE) { emulator::mbarrier_init(barrier, count, site); }
inline void fence_mbarrier_init(INFONCE_SITE) { emulator::fence_mbarrier_init(site); }
inline void mbarrier_arrive(SharedAddress barrier, INFONCE_SITE) { emulator::mbarrier_arrive(barrier, 0, site); }
inline void mbarrier_arrive_expect(SharedAddress barrier, uint32_t bytes, INFONCE_SITE) {
    emulator::mbarrier_arrive(barrier, bytes, site);
}
inline void mbarrier_wait(SharedAddress barrier, uint32_t parity, INFONCE_SITE) { emulator::mbarrier_wait(barrier, parity, site); }

#endif

}  // namespace infonce
