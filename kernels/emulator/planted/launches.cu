// Twice a vector, by kernels with a prologue. Planted: global memory is read, written, copied from or a box
// stored there before the wait for the launches before; threads past the end leave with no wait.
#include "ptx/barrier.h"
#include "ptx/cp_async.h"
#include "ptx/global.h"
#include "ptx/kernel.h"
#include "ptx/mbarrier.h"
#include "ptx/shared.h"
#include "ptx/tensor_copy.h"
#include "ptx/tensor_store.h"
#include "tile/slab.h"

namespace infonce {

struct LaunchParams {
    const float* x;
    float* y;
    uint32_t count;
};

enum class LaunchPlanted { NOTHING, LOAD, STORE, COPY, LEAVES, BOX, BOX_STORE };

constexpr uint32_t LAUNCH_THREADS = 64;

template <LaunchPlanted PLANTED>
INFONCE_DEVICE void twice_behind_wait(const LaunchParams& p) {
    const uint32_t i = block_index().x * LAUNCH_THREADS + thread_index();
    const SharedAddress chunk = shared_base() + 16 * thread_index();
    float number = 0.0f;
    if (PLANTED == LaunchPlanted::LOAD && i < p.count) number = load_global(p.x + i);  // planted load
    if (PLANTED == LaunchPlanted::STORE && i < p.count) store_global(p.y + i, 0.0f);   // planted store
    if (PLANTED == LaunchPlanted::COPY) copy_async_16(chunk, p.x, true);               // planted copy
    if (PLANTED == LaunchPlanted::LEAVES && i >= p.count) return;
    wait_for_launches_before();
    if (i >= p.count) return;
    number = load_global(p.x + i);
    store_global(p.y + i, 2.0f * number);
}

INFONCE_PLANTED_CLUSTER(planted_launch_load, LaunchParams, LAUNCH_THREADS, 1) { twice_behind_wait<LaunchPlanted::LOAD>(p); }
INFONCE_PLANTED_CLUSTER(planted_launch_store, LaunchParams, LAUNCH_THREADS, 1) { twice_behind_wait<LaunchPlanted::STORE>(p); }
INFONCE_PLANTED_CLUSTER(planted_launch_copy, LaunchParams, LAUNCH_THREADS, 1) { twice_behind_wait<LaunchPlanted::COPY>(p); }
INFONCE_PLANTED_CLUSTER(planted_launch_leaves, LaunchParams, LAUNCH_THREADS, 1) { twice_behind_wait<LaunchPlanted::LEAVES>(p); }
INFONCE_PLANTED_CLUSTER(planted_launch_sound, LaunchParams, LAUNCH_THREADS, 1) { twice_behind_wait<LaunchPlanted::NOTHING>(p); }

struct BoxLaunchParams {
    TensorMap x;  // rows of 32 elements, boxes of 2
    float* y;
    uint32_t padding[14];
};

template <LaunchPlanted PLANTED>
INFONCE_DEVICE void twice_of_box(const BoxLaunchParams& p) {
    const uint32_t thread = thread_index();
    const SharedAddress box = shared_base(), arrived = box + LAUNCH_THREADS * 4;
    if (thread == 0) {
        mbarrier_init(arrived, 1);
        fence_mbarrier_init();
        prefetch_map(p.x);
        mbarrier_arrive_expect(arrived, LAUNCH_THREADS * 4);
    }
    if (PLANTED == LaunchPlanted::BOX && thread == 0) copy_box(box, p.x, 0, 0, arrived);    // planted box
    if (PLANTED == LaunchPlanted::BOX_STORE && thread == 0) store_box(p.x, 0, 0, box);      // planted box store
    wait_for_launches_before();
    if (PLANTED == LaunchPlanted::NOTHING && thread == 0) copy_box(box, p.x, 0, 0, arrived);
    block_barrier();
    mbarrier_wait(arrived, 0);
    const SharedAddress chunk = chunk_address(box, int(thread / 32), int(thread % 32 / 4));
    store_global(p.y + thread, 2.0f * load_shared<float>(chunk + thread % 4 * 4));
}

INFONCE_PLANTED_CLUSTER(planted_launch_box, BoxLaunchParams, LAUNCH_THREADS, 1) { twice_of_box<LaunchPlanted::BOX>(p); }
INFONCE_PLANTED_CLUSTER(planted_launch_box_store, BoxLaunchParams, LAUNCH_THREADS, 1) { twice_of_box<LaunchPlanted::BOX_STORE>(p); }
INFONCE_PLANTED_CLUSTER(planted_launch_box_sound, BoxLaunchParams, LAUNCH_THREADS, 1) { twice_of_box<LaunchPlanted::NOTHING>(p); }

}  // namespace infonce
