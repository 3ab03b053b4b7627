// Vector clocks: what arrivals release and waits acquire.
#include "emulator/clocks.h"

#include <algorithm>

namespace infonce::emulator {

void Clocks::start(uint32_t count, uint32_t blocks) {
    warps = count;
    times.assign(count + blocks * MOST_BARRIERS, 0);
    std::fill(times.begin(), times.begin() + count, 1);
    seen.assign(count, Clock(times.size(), 0));
}

void Clocks::release(uint32_t warp, Clock& to) {
    join(to, seen[warp]);
    // The warp's later work is not released.
    to[warp] = std::max(to[warp], times[warp]++);
}

uint32_t Clocks::complete(uint32_t barrier, Clock& to) {
    const uint32_t entry = copies_of(barrier);
    return to[entry] = ++times[entry];
}

void Clocks::join(uint32_t first, uint32_t count) {
    Clock& all = seen[first];
    for (uint32_t warp = first; warp < first + count; ++warp) release(warp, all);
    for (uint32_t warp = first + 1; warp < first + count; ++warp) seen[warp] = all;
}

void Clocks::join(Clock& to, const Clock& from) {
    for (size_t i = 0; i < to.size(); ++i) to[i] = std::max(to[i], from[i]);
}

}  // namespace infonce::emulator
