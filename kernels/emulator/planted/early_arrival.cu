// One warp hands values to another through shared memory and an mbarrier. Planted: it arrives before it has written
// them, so the wait orders nothing.
#include "ptx/barrier.h"
#include "ptx/global.h"
#include "ptx/kernel.h"
#include "ptx/mbarrier.h"
#include "ptx/shared.h"

namespace infonce {

struct HandoverParams {
    const float* x;  // 32 elements
    float* y;
};

template <bool PLANTED>
INFONCE_DEVICE void hand_over(const HandoverParams& p) {
    const uint32_t lane = thread_index() % 32;
    const SharedAddress barrier = shared_base(), numbers = barrier + 16;
    if (thread_index() == 0) mbarrier_init(barrier, 32);
    block_barrier();
    if (thread_index() < 32) {
        if (PLANTED) mbarrier_arrive(barrier);
        store_shared(numbers + 4 * lane, load_global(p.x + lane));
        if (!PLANTED) mbarrier_arrive(barrier);
    } else {
        mbarrier_wait(barrier, 0);
        const float number = load_shared<float>(numbers + 4 * (31 - lane));  // planted
        store_global(p.y + lane, number);
    }
}

INFONCE_PLANTED(planted_early_arrival, HandoverParams, 64) { hand_over<true>(p); }
INFONCE_PLANTED(planted_early_arrival_sound, HandoverParams, 64) { hand_over<false>(p); }

}  // namespace infonce
