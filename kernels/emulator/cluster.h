// The blocks of a cluster, mostly one alone, on one OS thread: their fibers alternate as those of a
// block do, and the blocks too. What a block knows of another's shared memory is in the clocks that they
// share; barriers of a block mean nothing to another.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "emulator/block.h"

namespace infonce::emulator {

class Cluster {
  public:
    // Runs `blocks` blocks, consecutive in x from `first` on; false when one faulted, and fault() says
    // which and how.
    bool run(const InfonceEmulatorLaunch& launch, void (*body)(const void*), uint32_t blocks, const uint32_t (&first)[3], uint64_t seed);
    const std::string& fault() const { return fault_text; }

  private:
    friend class Block;

    // Where a block's places lie among those of the cluster: block r's from (r + 1) · WINDOW on.
    static constexpr uint32_t WINDOW = 1 << 24;

    void next();
    // The block to go on with; null: none has a thread that could run, whatever copies complete.
    Block* choose();
    bool complete_late_copy();
    // Ends the run from within a fiber, with what is wrong in the block that runs.
    [[noreturn]] void give_up(const std::string& what);
    std::string leftovers() const;
    // Ends the phase of the barrier if all threads that live have arrived, and lets those that wait go on.
    void settle_barrier();

    Clocks clocks;
    Fiber scheduler;
    std::vector<std::unique_ptr<Block>> blocks;
    uint32_t size = 0;
    bool in_turn = false;  // a block goes on for as long as it can
    // The barrier: how many have arrived, who they are (block and thread), and what their arrivals release. It
    // orders by clocks: counts of barriers say nothing between blocks.
    uint32_t arrived = 0;
    std::vector<std::pair<Block*, uint32_t>> waiting;
    Clock released;
    std::string fault_text;
};

// This OS thread's.
Cluster& this_cluster();

}  // namespace infonce::emulator
