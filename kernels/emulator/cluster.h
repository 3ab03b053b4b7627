// The blocks of a cluster (mostly one alone) on one OS thread: their fibers and the blocks alternate. Shared clocks
// record what a block knows of another's shared memory; barriers of a block order nothing for another block.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "emulator/block.h"

namespace infonce::emulator {

class Cluster {
  public:
    // Runs `blocks` blocks, consecutive in x from `first` on; false if one faulted: fault() says which and how.
    bool run(const InfonceEmulatorLaunch& launch, void (*body)(const void*), uint32_t blocks, const uint32_t (&first)[3], uint64_t seed);
    const std::string& fault() const { return fault_text; }

  private:
    friend class Block;

    // Addresses of the cluster: block r's start at (r + 1) · WINDOW.
    static constexpr uint32_t WINDOW = 1 << 24;

    void next();
    // The block to continue with; null: no block has a thread that can run, whatever copies complete.
    Block* choose();
    bool complete_late_copy();
    // Ends the run from within a fiber, with a report of the running block.
    [[noreturn]] void give_up(const std::string& what);
    std::string leftovers() const;
    // Ends the barrier's phase if all living threads have arrived, and wakes those that wait.
    void settle_barrier();

    Clocks clocks;
    Fiber scheduler;
    std::vector<std::unique_ptr<Block>> blocks;
    uint32_t size = 0;
    bool keeps_block = false;  // a block continues for as long as it can
    // The barrier: how many have arrived, which threads (block and thread), and what their arrivals release. It orders
    // by clocks, because counts of barriers say nothing between blocks.
    uint32_t arrived = 0;
    std::vector<std::pair<Block*, uint32_t>> waiting;
    Clock released;
    std::string fault_text;
};

// This OS thread's.
Cluster& this_cluster();

}  // namespace infonce::emulator
