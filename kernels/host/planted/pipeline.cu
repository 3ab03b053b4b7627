// Adds up tiles that bulk copies bring through a ring of three stages: `full` says that a stage's
// bytes have come, `empty` that all warps have read them.
//   planted_large_transaction  announces 16 bytes more than are copied: the phase never completes
//   planted_missing_full_wait  reads a stage without waiting for its bytes
#include "ptx/barrier.h"
#include "ptx/bulk_copy.h"
#include "ptx/global.h"
#include "ptx/kernel.h"
#include "ptx/mbarrier.h"
#include "ptx/shared.h"

namespace infonce {

struct PipelineParams {
    const float* x;  // tiles of 128 numbers
    float* sums;     // one a thread
    uint32_t tiles;
};

constexpr uint32_t PIPELINE_THREADS = 128, PIPELINE_STAGES = 3, PIPELINE_BYTES = PIPELINE_THREADS * 4;

enum class PipelineFault { NONE, LARGE_TRANSACTION, MISSING_FULL_WAIT };

template <PipelineFault FAULT>
INFONCE_DEVICE void add_tiles(const PipelineParams& p) {
    const uint32_t thread = thread_index();
    const SharedAddress full = shared_base() + PIPELINE_STAGES * PIPELINE_BYTES;
    const SharedAddress empty = full + PIPELINE_STAGES * MBARRIER_BYTES;
    if (thread == 0) {
        for (uint32_t stage = 0; stage < PIPELINE_STAGES; ++stage) {
            mbarrier_init(full + stage * MBARRIER_BYTES, 1);
            mbarrier_init(empty + stage * MBARRIER_BYTES, PIPELINE_THREADS / 32);
        }
        fence_mbarrier_init();
    }
    block_barrier();
    auto load = [&](uint32_t tile) {
        const uint32_t stage = tile % PIPELINE_STAGES;
        const SharedAddress barrier = full + stage * MBARRIER_BYTES;
        const uint32_t bytes = FAULT == PipelineFault::LARGE_TRANSACTION ? PIPELINE_BYTES + 16 : PIPELINE_BYTES;
        mbarrier_arrive_expect(barrier, bytes);  // planted transaction
        copy_bulk(shared_base() + stage * PIPELINE_BYTES, p.x + tile * PIPELINE_THREADS, PIPELINE_BYTES, barrier);
    };
    if (thread == 0)
        for (uint32_t tile = 0; tile < PIPELINE_STAGES && tile < p.tiles; ++tile) load(tile);
    float sum = 0.0f;
    for (uint32_t tile = 0; tile < p.tiles; ++tile) {
        const uint32_t stage = tile % PIPELINE_STAGES, parity = tile / PIPELINE_STAGES % 2;
        if (FAULT == PipelineFault::MISSING_FULL_WAIT)
            block_barrier();
        else
            mbarrier_wait(full + stage * MBARRIER_BYTES, parity);
        const SharedAddress from = shared_base() + stage * PIPELINE_BYTES + PIPELINE_BYTES - 4 - 4 * thread;
        sum += load_shared<float>(from);  // planted read
        warp_barrier();
        if (thread % 32 == 0) mbarrier_arrive(empty + stage * MBARRIER_BYTES);
        if (thread == 0 && tile + PIPELINE_STAGES < p.tiles) {
            mbarrier_wait(empty + stage * MBARRIER_BYTES, parity);
            load(tile + PIPELINE_STAGES);
        }
    }
    store_global(p.sums + thread, sum);
}

INFONCE_KERNEL(planted_large_transaction, PipelineParams, PIPELINE_THREADS, 1) {
    add_tiles<PipelineFault::LARGE_TRANSACTION>(p);
}
INFONCE_KERNEL(planted_missing_full_wait, PipelineParams, PIPELINE_THREADS, 1) {
    add_tiles<PipelineFault::MISSING_FULL_WAIT>(p);
}
INFONCE_KERNEL(planted_pipeline_sound, PipelineParams, PIPELINE_THREADS, 1) { add_tiles<PipelineFault::NONE>(p); }

}  // namespace infonce
