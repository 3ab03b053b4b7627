// Adds up tiles that box copies bring through a ring of three stages: `full` says that a stage's bytes have come,
// `empty` that all warps have read them.
//   planted_large_transaction  announces 16 bytes more than are copied: the phase never completes
//   planted_missing_full_wait  reads a stage without waiting for its bytes
//   planted_copy_too_many      copies a tile that nobody waits for
#include "ptx/barrier.h"
#include "ptx/global.h"
#include "ptx/kernel.h"
#include "ptx/mbarrier.h"
#include "ptx/shared.h"
#include "ptx/tensor_copy.h"
#include "tile/slab.h"

namespace infonce {

struct PipelineParams {
    TensorMap x;  // rows of 32 elements; a tile has 8 of them
    float* sums;  // one a thread
    uint32_t tiles;
};

constexpr uint32_t PIPELINE_THREADS = 256, PIPELINE_STAGES = 3, PIPELINE_ROWS = 8, PIPELINE_BYTES = PIPELINE_THREADS * 4;

enum class PipelineFault { NONE, LARGE_TRANSACTION, MISSING_FULL_WAIT, COPY_TOO_MANY };

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
        copy_box(shared_base() + stage * PIPELINE_BYTES, p.x, 0, tile * PIPELINE_ROWS, barrier);  // planted copy
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
        const uint32_t number = PIPELINE_THREADS - 1 - thread;
        const SharedAddress chunk = chunk_address(shared_base() + stage * PIPELINE_BYTES, int(number / 32), int(number % 32 / 4));
        sum += load_shared<float>(chunk + number % 4 * 4);  // planted read
        warp_barrier();
        if (thread % 32 == 0) mbarrier_arrive(empty + stage * MBARRIER_BYTES);
        if (thread == 0 && tile + PIPELINE_STAGES < p.tiles) {
            mbarrier_wait(empty + stage * MBARRIER_BYTES, parity);
            load(tile + PIPELINE_STAGES);
        }
    }
    if (FAULT == PipelineFault::COPY_TOO_MANY && thread == 0) {
        mbarrier_wait(empty + p.tiles % PIPELINE_STAGES * MBARRIER_BYTES, (p.tiles / PIPELINE_STAGES - 1) % 2);
        load(p.tiles);
    }
    store_global(p.sums + thread, sum);
}

INFONCE_PLANTED(planted_large_transaction, PipelineParams, PIPELINE_THREADS) {
    add_tiles<PipelineFault::LARGE_TRANSACTION>(p);
}
INFONCE_PLANTED(planted_missing_full_wait, PipelineParams, PIPELINE_THREADS) {
    add_tiles<PipelineFault::MISSING_FULL_WAIT>(p);
}
INFONCE_PLANTED(planted_copy_too_many, PipelineParams, PIPELINE_THREADS) { add_tiles<PipelineFault::COPY_TOO_MANY>(p); }
INFONCE_PLANTED(planted_pipeline_sound, PipelineParams, PIPELINE_THREADS) { add_tiles<PipelineFault::NONE>(p); }

}  // namespace infonce
