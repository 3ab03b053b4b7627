// Reverses blocks of elements, staged in shared memory with cp.async. Planted: the copies are committed but not waited
// for.
#include "ptx/barrier.h"
#include "ptx/cp_async.h"
#include "ptx/global.h"
#include "ptx/kernel.h"
#include "ptx/shared.h"

namespace infonce {

struct ReversalParams {
    const float* x;
    float* y;
    uint32_t count;  // a multiple of 4
};

constexpr uint32_t REVERSAL_THREADS = 64, REVERSAL_NUMBERS = 4 * REVERSAL_THREADS;

template <bool PLANTED>
INFONCE_DEVICE void reverse(const ReversalParams& p) {
    const uint32_t first = block_index().x * REVERSAL_NUMBERS, own = first + 4 * thread_index();
    copy_async_16(shared_base() + 16 * thread_index(), own < p.count ? p.x + own : p.x, own < p.count);
    commit_copies();
    if (!PLANTED) wait_copies<0>();
    block_barrier();
    for (uint32_t i = thread_index(); i < REVERSAL_NUMBERS; i += REVERSAL_THREADS) {
        const float number = load_shared<float>(shared_base() + 4 * (REVERSAL_NUMBERS - 1 - i));  // planted
        store_global(p.y + first + i, number);
    }
}

INFONCE_PLANTED(planted_missing_wait, ReversalParams, REVERSAL_THREADS) { reverse<true>(p); }
INFONCE_PLANTED(planted_missing_wait_sound, ReversalParams, REVERSAL_THREADS) { reverse<false>(p); }

}  // namespace infonce
