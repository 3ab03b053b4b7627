// What the sm_90a kernels share: the roles of warps, the ring of stages, the scheduler.
//
// A block has consumer warpgroups, which multiply, and a producer, which copies. A stage is full when all of its bytes
// have been copied, and empty when every consumer warp has read it and arrived.
//
// The two CTAs of a cluster can share operands: each multicasts half of one to both. A stage is then empty when the
// consumer warps of both have arrived, because either half overwrites both blocks' memory.
#pragma once

#include "ptx/barrier.h"
#include "ptx/cluster.h"
#include "ptx/kernel.h"
#include "ptx/mbarrier.h"
#include "ptx/registers.h"
#include "ptx/shared.h"
#include "ptx/shuffle.h"
#include "ptx/tensor_copy.h"
#include "ptx/wgmma.h"
#include "tile/slab.h"
#include "tile/work.h"

// Whether this compilation builds the kernels that only sm_90a can run.
#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define INFONCE_HOPPER 1
#else
#define INFONCE_HOPPER 0
#endif

namespace infonce {

// The ring's next stage, and the parity of the mbarrier phase that its next use completes.
template <int STAGES>
struct PipelineState {
    uint32_t stage = 0, parity = 0;
    INFONCE_DEVICE void advance() {
        if (++stage < uint32_t(STAGES)) return;
        stage = 0;
        parity ^= 1;
    }
};

// The number of CTAs of a cluster, which share copies, and the multicast mask of both.
constexpr uint32_t PAIR = 2;
constexpr uint16_t BOTH_BLOCKS = 0b11;

// The mbarriers of a ring of STAGES stages. `consumers` warps of each of BLOCKS blocks read a stage.
template <int STAGES, uint32_t BLOCKS = 1>
struct Ring {
    static constexpr uint32_t BYTES = 2 * STAGES * MBARRIER_BYTES;
    SharedAddress barriers;

    // By one thread; fence_mbarrier_init and a barrier of the block or cluster follow. `writers`: threads that arrive
    // at a full stage besides the one that announces copies.
    INFONCE_DEVICE void init(uint32_t consumers, uint32_t writers = 0) const {
        for (uint32_t stage = 0; stage < uint32_t(STAGES); ++stage) {
            mbarrier_init(full(stage), 1 + writers);
            mbarrier_init(empty(stage), BLOCKS * consumers);
        }
    }
    INFONCE_DEVICE SharedAddress full(uint32_t stage) const { return barriers + stage * MBARRIER_BYTES; }
    INFONCE_DEVICE SharedAddress empty(uint32_t stage) const { return full(STAGES + stage); }

    // Waits until the stage is empty.
    INFONCE_DEVICE void wait_empty(const PipelineState<STAGES>& state) const { mbarrier_wait(empty(state.stage), state.parity ^ 1); }
    // The producer: waits until the stage is empty, and announces the bytes to come.
    INFONCE_DEVICE SharedAddress fill(const PipelineState<STAGES>& state, uint32_t bytes) const {
        wait_empty(state);
        mbarrier_arrive_expect(full(state.stage), bytes);
        return full(state.stage);
    }
    // A consumer waits until the stage is full, and releases it when its products of the stage have ended.
    INFONCE_DEVICE void wait(const PipelineState<STAGES>& state) const { mbarrier_wait(full(state.stage), state.parity); }
    INFONCE_DEVICE void release(uint32_t stage) const {
        const uint32_t lane = thread_index() % 32;
        if (BLOCKS > 1) {
            if (lane < BLOCKS) mbarrier_arrive_remote(cluster_address(empty(stage), lane));
        } else if (lane == 0) {
            mbarrier_arrive(empty(stage));
        }
    }
    // A consumer warp that has issued the products of `state`'s stage: waits for those of stage `before`, releases it
    // and advances. `first`: there is no stage before.
    INFONCE_DEVICE void follow(PipelineState<STAGES>& state, uint32_t& before, bool first) const {
        wgmma_commit();
        if (!first) {
            wgmma_wait<1>();
            release(before);
        }
        before = state.stage;
        state.advance();
    }
};

// All work tiles of a launch, tiles × splits, in their order: the row tiles of `group` clusters (of blocks, where there
// are no clusters) against every split, then those of the next group (src/launch/choice.rs).
struct WorkGrid {
    uint32_t tiles, splits, group;
};

// A static persistent scheduler. The grid has as many blocks as the device runs at a time; block b processes work tiles
// b, b + gridDim, …. Copies for the next work tile run while this one's sums are written. Within a group row tiles
// vary fastest, so blocks that run together share the other side's rows, and the group's own, in L2. The BLOCKS blocks
// of a cluster have neighbouring row tiles.
template <uint32_t BLOCKS = 1>
struct Scheduler {
    const WorkGrid& grid;
    uint32_t index = block_index().x / BLOCKS;

    INFONCE_DEVICE bool has_work() const { return index < grid.tiles / BLOCKS * grid.splits; }
    INFONCE_DEVICE Work work() const {
        const uint32_t across = grid.tiles / BLOCKS, rank = BLOCKS > 1 ? cluster_rank() : 0;
        const uint32_t first = index / (grid.group * grid.splits) * grid.group, within = index - first * grid.splits;
        const uint32_t width = grid.group < across - first ? grid.group : across - first;
        return {(first + within % width) * BLOCKS + rank, within / width};
    }
    INFONCE_DEVICE void advance() { index += grid_size().x / BLOCKS; }
};

}  // namespace infonce
