#include "host/clocks.h"

#include <algorithm>

namespace infonce::host {

void Clocks::start(uint32_t count) {
    warps = count;
    times.assign(count + MOST_BARRIERS, 0);
    std::fill(times.begin(), times.begin() + count, 1);
    seen.assign(count, Clock(times.size(), 0));
}

void Clocks::release(uint32_t warp, Clock& to) {
    join(to, seen[warp]);
    // What the warp does after this arrival is not part of it.
    to[warp] = std::max(to[warp], times[warp]++);
}

uint32_t Clocks::complete(uint32_t barrier, Clock& to) {
    const uint32_t entry = copies_of(barrier);
    return to[entry] = ++times[entry];
}

void Clocks::meet() {
    for (uint32_t warp = 1; warp < warps; ++warp) join(seen[0], seen[warp]);
    for (uint32_t warp = 1; warp < warps; ++warp) seen[warp] = seen[0];
}

void Clocks::join(Clock& to, const Clock& from) {
    for (size_t i = 0; i < to.size(); ++i) to[i] = std::max(to[i], from[i]);
}

}  // namespace infonce::host
