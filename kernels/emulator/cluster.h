// Runs the blocks of a cluster, mostly one block alone, on one OS thread. Accesses of one block to another's shared
// memory are ordered by clocks: a block's own barriers order nothing for another block.
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

    // Cluster addresses: those of block r's shared memory start at (r + 1) · WINDOW.
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
    bool keeps_block = false;  // a block runs until none of its threads is ready; else blocks alternate at random
    // The cluster barrier: how many threads have arrived, those that wait (block and thread), and what arrivals release.
    uint32_t arrived = 0;
    std::vector<std::pair<Block*, uint32_t>> waiting;
    Clock released;
    std::string fault_text;
};

// The one that this OS thread uses for all launches.
Cluster& this_cluster();

}  // namespace infonce::emulator
