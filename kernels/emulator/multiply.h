// What an mma does with the fragments of a warp.
#pragma once

#include "emulator/block.h"

namespace infonce::emulator {

// The numbers of 8 or 16 bits in `bytes` bytes, each at `stride` after the one before.
void widen(Numbers numbers, const void* from, uint32_t bytes, float* to, uint32_t stride);

// d = a·b, 8×8, `depth` terms each: products and sums are f32, the summed axis in order.
void multiply_8x8(const float* a, uint32_t a_stride, const float* b, uint32_t b_stride, uint32_t depth, float* d, uint32_t d_stride);

// d += a·b of the 32 lanes, whose selectors name the kind of numbers; ptx/mma.h states the layouts.
// Products and sums are f32, the summed axis in order.
void multiply(const LaneArguments* const (&lanes)[WARP]);

}  // namespace infonce::emulator
