// Helpers of the row-wise kernels: the row of a warp, and loops and reductions of a block.
#pragma once

#include "ptx/barrier.h"
#include "ptx/shared.h"
#include "ptx/shuffle.h"

namespace infonce {

// The row of this warp in a kernel with a warp a row.
template <class Kernel>
INFONCE_DEVICE uint64_t warp_row() {
    return uint64_t(block_index().x) * (Kernel::THREADS / 32) + thread_index() / 32;
}

// Of kernels with one block.
constexpr uint32_t BLOCK_THREADS = list::reduce::THREADS, BLOCK_WARPS = BLOCK_THREADS / 32;

// Calls `use(load(i))` for this thread's i < `count`, with TOGETHER loads in flight, in blocks of THREADS threads.
template <uint32_t THREADS = BLOCK_THREADS, uint32_t TOGETHER = 4, class Load, class Use>
INFONCE_DEVICE void for_own(uint32_t count, const Load& load, const Use& use) {
    for (uint64_t first = thread_index(); first < count; first += TOGETHER * THREADS) {
        decltype(load(0u)) x[TOGETHER];
        INFONCE_UNROLL
        for (uint32_t i = 0; i < TOGETHER; ++i) {
            const uint64_t at = first + i * THREADS;
            x[i] = load(uint32_t(at < count ? at : first));
        }
        INFONCE_UNROLL
        for (uint32_t i = 0; i < TOGETHER; ++i)
            if (first + i * THREADS < count) use(x[i]);
    }
}

// Every thread's x[i] becomes the reduction of all threads' x[i] by `join`, in a fixed order. A block barrier comes
// before a second call in the same kernel.
template <class Kernel, int COUNT, class T, class Join>
INFONCE_DEVICE void join_block(T (&x)[COUNT], const Join& join) {
    constexpr int WARPS = Kernel::THREADS / 32;
    static_assert(Kernel::SHARED_BYTES >= COUNT * WARPS * int(sizeof(T)));
    const uint32_t lane = thread_index() % 32, warp = thread_index() / 32;
    const auto join_lanes = [&](int lanes) {
        INFONCE_UNROLL
        for (int i = 0; i < COUNT; ++i)
            INFONCE_UNROLL
            for (int mask = 1; mask < lanes; mask *= 2) x[i] = join(x[i], shuffle_xor(x[i], mask));
    };
    const auto slot = [&](int i, uint32_t of_warp) { return shared_base() + (i * WARPS + of_warp) * uint32_t(sizeof(T)); };
    join_lanes(32);
    INFONCE_UNROLL
    for (int i = 0; i < COUNT; ++i)
        if (lane == 0) store_shared(slot(i, warp), x[i]);
    block_barrier();
    INFONCE_UNROLL
    for (int i = 0; i < COUNT; ++i) x[i] = load_shared<T>(slot(i, lane % WARPS));
    join_lanes(WARPS);
}

}  // namespace infonce
