// A block's sum by halving. Planted: no barrier between the writes and the first addition.
#include "ptx/barrier.h"
#include "ptx/global.h"
#include "ptx/kernel.h"
#include "ptx/shared.h"

namespace infonce {

struct ReductionParams {
    const float* x;
    float* sums;  // one a block
    uint32_t count;
};

constexpr uint32_t REDUCTION_THREADS = 128;

template <bool PLANTED>
INFONCE_DEVICE void reduce(const ReductionParams& p) {
    const uint32_t i = block_index().x * REDUCTION_THREADS + thread_index();
    const SharedAddress slot = shared_base() + thread_index() * 4;
    store_shared(slot, i < p.count ? load_global(p.x + i) : 0.0f);
    if (!PLANTED) block_barrier();
    for (uint32_t half = REDUCTION_THREADS / 2; half > 0; half /= 2) {
        if (thread_index() < half) {
            const float other = load_shared<float>(slot + half * 4);  // planted
            store_shared(slot, load_shared<float>(slot) + other);
        }
        block_barrier();
    }
    if (thread_index() == 0) store_global(p.sums + block_index().x, load_shared<float>(slot));
}

INFONCE_PLANTED(planted_missing_barrier, ReductionParams, REDUCTION_THREADS) { reduce<true>(p); }
INFONCE_PLANTED(planted_missing_barrier_sound, ReductionParams, REDUCTION_THREADS) { reduce<false>(p); }

}  // namespace infonce
