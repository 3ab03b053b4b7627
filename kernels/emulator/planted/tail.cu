// Twice a vector. Planted: the guard of the last block lets one element too many through if the length is not a
// multiple of the block.
#include "ptx/global.h"
#include "ptx/kernel.h"

namespace infonce {

struct TailParams {
    const float* x;
    float* y;
    uint32_t count;
};

constexpr uint32_t TAIL_THREADS = 128;

template <bool PLANTED>
INFONCE_DEVICE void twice(const TailParams& p) {
    const uint32_t i = block_index().x * TAIL_THREADS + thread_index();
    const bool inside = PLANTED ? i <= p.count : i < p.count;
    if (!inside) return;
    const float number = load_global(p.x + i);  // planted
    store_global(p.y + i, 2.0f * number);
}

// The same with a guard that is right for reads and wrong for writes.
template <bool PLANTED>
INFONCE_DEVICE void twice_padded(const TailParams& p) {
    const uint32_t i = block_index().x * TAIL_THREADS + thread_index();
    const float number = i < p.count ? load_global(p.x + i) : 0.0f;
    if (PLANTED ? i > p.count : i >= p.count) return;
    store_global(p.y + i, 2.0f * number);  // planted write
}

INFONCE_PLANTED(planted_tail_read, TailParams, TAIL_THREADS) { twice<true>(p); }
INFONCE_PLANTED(planted_tail_read_sound, TailParams, TAIL_THREADS) { twice<false>(p); }
INFONCE_PLANTED(planted_tail_write, TailParams, TAIL_THREADS) { twice_padded<true>(p); }
INFONCE_PLANTED(planted_tail_write_sound, TailParams, TAIL_THREADS) { twice_padded<false>(p); }

}  // namespace infonce
