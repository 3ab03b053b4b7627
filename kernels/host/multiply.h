// What an mma does with the fragments of a warp.
#pragma once

#include "host/block.h"

namespace infonce::host {

// A number of 8 or 16 bits.
float widen(Numbers numbers, uint16_t bits);

// d += a·b of the 32 lanes, whose selectors name the kind of numbers; ptx/mma.h states the layouts.
// Products and sums are f32, the summed axis in order.
void multiply(const LaneArguments* const (&lanes)[WARP]);

}  // namespace infonce::host
