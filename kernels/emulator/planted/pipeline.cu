// Adds up tiles that box copies bring through a ring of three stages: `full` says that a stage's bytes have come,
// `empty` that all warps have read them.
//   planted_large_transaction  announces 16 bytes more than are copied: the phase never completes
//   planted_missing_full_wait  reads a stage without waiting for its bytes
//   planted_copy_too_many      copies a tile that nobody waits for
#include "hopper/tile.h"
#include "ptx/global.h"

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
    const Ring<PIPELINE_STAGES> ring{shared_base() + PIPELINE_STAGES * PIPELINE_BYTES};
    if (thread == 0) {
        ring.init(PIPELINE_THREADS / 32);
        fence_mbarrier_init();
    }
    block_barrier();
    PipelineState<PIPELINE_STAGES> filled, state;
    auto load = [&](uint32_t tile) {
        const SharedAddress barrier = ring.full(filled.stage), to = shared_base() + filled.stage * PIPELINE_BYTES;
        const uint32_t bytes = FAULT == PipelineFault::LARGE_TRANSACTION ? PIPELINE_BYTES + 16 : PIPELINE_BYTES;
        ring.wait_empty(filled);
        mbarrier_arrive_expect(barrier, bytes);               // planted transaction
        copy_box(to, p.x, 0, tile * PIPELINE_ROWS, barrier);  // planted copy
        filled.advance();
    };
    if (thread == 0)
        for (uint32_t tile = 0; tile < PIPELINE_STAGES && tile < p.tiles; ++tile) load(tile);
    float sum = 0.0f;
    for (uint32_t tile = 0; tile < p.tiles; ++tile, state.advance()) {
        if (FAULT == PipelineFault::MISSING_FULL_WAIT)
            block_barrier();
        else
            ring.wait(state);
        const uint32_t number = PIPELINE_THREADS - 1 - thread;
        const SharedAddress tile_start = shared_base() + state.stage * PIPELINE_BYTES;
        const SharedAddress chunk = chunk_address(tile_start, int(number / 32), int(number % 32 / 4));
        sum += load_shared<float>(chunk + number % 4 * 4);  // planted read
        warp_barrier();
        ring.release(state.stage);
        if (thread == 0 && tile + PIPELINE_STAGES < p.tiles) load(tile + PIPELINE_STAGES);
    }
    if (FAULT == PipelineFault::COPY_TOO_MANY && thread == 0) load(p.tiles);
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
