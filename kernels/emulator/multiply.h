// The arithmetic of mma and wgmma.
#pragma once

#include "emulator/block.h"

namespace infonce::emulator {

// Widens the 8- or 16-bit elements in `bytes` bytes, each to `stride` after the one before.
void widen(ElementType type, const void* from, uint32_t bytes, float* to, uint32_t stride);

// d = a·b, 8×8, `depth` terms each: products and sums are f32, the summed axis in order.
void multiply_8x8(const float* a, uint32_t a_stride, const float* b, uint32_t b_stride, uint32_t depth, float* d, uint32_t d_stride);

// d += a·b over the 32 lanes, whose selectors name the element type; ptx/mma.h states the layouts. Products and sums
// are f32, the summed axis in order.
void multiply(const LaneArguments* const (&lanes)[WARP]);

}  // namespace infonce::emulator
