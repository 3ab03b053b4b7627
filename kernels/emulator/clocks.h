// Vector clocks, one a warp: the events of other warps and of bulk copies that the warp knows of. An arrival at a barrier
// releases what the warp has done and seen; a wait acquires it (Mattern, "Virtual time and global states of distributed
// systems", 1989). Blocks of a cluster have clocks from the start; a block alone starts them at the first operation that
// needs them (Block::start_clocks).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace infonce::emulator {

// The mbarriers that a block can have; each is an entry of every clock.
constexpr uint32_t MOST_BARRIERS = 64;

// Entry w < warps: the time of warp w. Entry warps + b: the time of the bulk copies that mbarrier b counts. Warps and
// mbarriers of a cluster are numbered through, MOST_BARRIERS mbarriers a block.
using Clock = std::vector<uint32_t>;

class Clocks {
  public:
    // Starts the clocks, every warp at time 1: `count` warps in all of `blocks` blocks.
    void start(uint32_t count, uint32_t blocks) {
        warps = count;
        times.assign(count + blocks * MOST_BARRIERS, 0);
        std::fill(times.begin(), times.begin() + count, 1);
        seen.assign(count, Clock(times.size(), 0));
    }
    void stop() { warps = 0; }
    bool on() const { return warps > 0; }
    uint32_t warp_count() const { return warps; }

    uint32_t copies_of(uint32_t barrier) const { return warps + barrier; }
    uint32_t time(uint32_t entry) const { return times[entry]; }
    // Whether what happened at `time` of `entry` is known to `warp`.
    bool has_seen(uint32_t warp, uint32_t entry, uint32_t time) const { return seen[warp][entry] >= time; }

    Clock empty() const { return Clock(times.size(), 0); }
    // The warp arrives: what it has done up to now, and seen, flows into `to`.
    void release(uint32_t warp, Clock& to) {
        join(to, seen[warp]);
        // The warp's later work is not released.
        to[warp] = std::max(to[warp], times[warp]++);
    }
    // A bulk copy of `barrier` has completed: its time, which flows into `to`.
    uint32_t complete(uint32_t barrier, Clock& to) {
        const uint32_t entry = copies_of(barrier);
        return to[entry] = ++times[entry];
    }
    // The warp has waited for a phase whose clock is `from`.
    void acquire(uint32_t warp, const Clock& from) { join(seen[warp], from); }
    // `count` warps from `first` on have passed a barrier of their block.
    void join(uint32_t first, uint32_t count) {
        Clock& all = seen[first];
        for (uint32_t warp = first; warp < first + count; ++warp) release(warp, all);
        for (uint32_t warp = first + 1; warp < first + count; ++warp) seen[warp] = all;
    }

  private:
    static void join(Clock& to, const Clock& from) {
        for (size_t i = 0; i < to.size(); ++i) to[i] = std::max(to[i], from[i]);
    }

    uint32_t warps = 0;
    Clock times;              // now, of every entry
    std::vector<Clock> seen;  // of every warp
};

}  // namespace infonce::emulator
