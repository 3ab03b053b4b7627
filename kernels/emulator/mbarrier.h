// An mbarrier of shared memory (PTX ISA, "mbarrier"): a phase completes when its arrivals have come and the announced
// transaction bytes have been copied; then the next one starts.
#pragma once

#include <cstdint>
#include <string>

#include "emulator/clocks.h"
#include "emulator/shadow.h"

namespace infonce::emulator {

// The range of a transaction count.
constexpr int64_t MOST_TRANSACTIONS = (1 << 20) - 1;
constexpr uint32_t MOST_ARRIVALS = (1 << 20) - 1;

struct Mbarrier {
    uint32_t offset;  // in shared memory, bytes
    uint32_t count;   // arrivals of a phase
    uint32_t pending;
    int64_t transactions = 0;  // bytes announced and not yet copied; negative: copied, not announced
    uint32_t phase = 0;
    Moment initialised;
    uint32_t initialised_time = 0;  // of its warp's clock
    bool fenced = false;  // fence_mbarrier_init has followed, so copies may use it
    // The latest arrival; file null: none yet.
    uint32_t last_thread = 0;
    std::string last_block;  // " of block …", where it is another one
    Site last_arrival{};
    // What the arrivals of the running phase release; what the completed one released.
    Clock running, completed;

    bool in_the_middle() const { return pending != count || transactions != 0; }
    bool passed(uint32_t parity) const { return (phase & 1) != parity; }
    // Where it is and how far its phase has come.
    std::string progress() const;
};

}  // namespace infonce::emulator
