// What planted products share. An operand's slab has 64 rows of 64 elements of bf16.
#pragma once

#include "hopper/tile.h"
#include "ptx/global.h"

namespace infonce {

constexpr uint32_t OPERAND_BYTES = 64 * 128;

// A ring of two stages, each with a slab of a and one of b. Its mbarriers begin `behind` bytes into shared memory.
struct OperandRing : Ring<2> {
    explicit OperandRing(uint32_t behind = 4 * OPERAND_BYTES) : Ring<2>{shared_base() + behind} {}
    SharedAddress a(uint32_t stage) const { return shared_base() + stage * 2 * OPERAND_BYTES; }
    SharedAddress b(uint32_t stage) const { return a(stage) + OPERAND_BYTES; }
};

// sums = a·bᵀ of two slabs, or sums += a·bᵀ, and the wait for it. A fault is reported at the caller's place.
inline void multiply_slabs(float (&sums)[32], SharedAddress a, SharedAddress b, bool accumulate, INFONCE_SITE) {
    emulator::wgmma_fence(site);
    for (uint32_t step = 0; step < 4; ++step)
        WarpgroupProduct<bf16, 64>::shared<false, false>(sums, describe_matrix(a, 16) + step * 32,
                                                         describe_matrix(b, 16) + step * 32, accumulate || step > 0, site);
    emulator::wgmma_commit(site);
    emulator::wgmma_wait(0, site);
}

// Stores a warpgroup's sums of 64 rows; a row of `d` has as many elements as the product has columns.
template <int ENTRIES>
void store_product(float* d, const float (&sums)[ENTRIES]) {
    const uint32_t row = thread_index() / 32 * 16 + thread_index() % 32 / 4, column = thread_index() % 4 * 2;
    for (uint32_t i = 0; i < ENTRIES; ++i)
        store_global(d + (row + i / 2 % 2 * 8) * 2 * ENTRIES + i / 4 * 8 + column + i % 2, sums[i]);
}

}  // namespace infonce
