// Reverses a tile that one box copy brings; a thread of each of the four warps arrives at its mbarrier. Planted: warp
// 0, which has arrived with the announced bytes, arrives once more.
#include "ptx/barrier.h"
#include "ptx/global.h"
#include "ptx/kernel.h"
#include "ptx/mbarrier.h"
#include "ptx/shared.h"
#include "ptx/tensor_copy.h"
#include "tile/slab.h"

namespace infonce {

struct ArrivalParams {
    TensorMap x;  // rows of 32 elements; a block has 4 of them
    float* y;
    uint32_t padding[14];
};

constexpr uint32_t ARRIVAL_THREADS = 128, ARRIVAL_ROWS = 4, ARRIVAL_BYTES = ARRIVAL_THREADS * 4;

template <bool PLANTED>
INFONCE_DEVICE void reverse_tile(const ArrivalParams& p) {
    const uint32_t thread = thread_index(), first = block_index().x * ARRIVAL_THREADS;
    const SharedAddress tile = shared_base(), barrier = tile + ARRIVAL_BYTES;
    if (thread == 0) {
        mbarrier_init(barrier, ARRIVAL_THREADS / 32);
        fence_mbarrier_init();
    }
    block_barrier();
    if (thread == 0) {
        mbarrier_arrive_expect(barrier, ARRIVAL_BYTES);
        copy_box(tile, p.x, 0, block_index().x * ARRIVAL_ROWS, barrier);
    }
    if (thread % 32 == 0 && (PLANTED || thread > 0)) mbarrier_arrive(barrier);  // planted
    mbarrier_wait(barrier, 0);
    const uint32_t number = ARRIVAL_THREADS - 1 - thread;
    const SharedAddress chunk = chunk_address(tile, int(number / 32), int(number % 32 / 4));
    store_global(p.y + first + thread, load_shared<float>(chunk + number % 4 * 4));
}

INFONCE_PLANTED(planted_extra_arrival, ArrivalParams, ARRIVAL_THREADS) { reverse_tile<true>(p); }
INFONCE_PLANTED(planted_extra_arrival_sound, ArrivalParams, ARRIVAL_THREADS) { reverse_tile<false>(p); }

}  // namespace infonce
