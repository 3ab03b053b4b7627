// A product of 64 × 64 by a warpgroup, with operands that its threads have stored. Planted: no fence; a fence only
// after the barrier behind which the products start.
#include "ptx/async_proxy.h"
#include "ptx/barrier.h"
#include "ptx/global.h"
#include "ptx/kernel.h"
#include "ptx/shared.h"
#include "ptx/wgmma.h"

namespace infonce {

struct StoredOperandsParams {
    const uint32_t* a;  // 64 × 64 elements, in pairs
    const uint32_t* b;
    float* d;
};

enum class FencePlanted { NOTHING, NONE, LATE };

template <FencePlanted PLANTED>
INFONCE_DEVICE void multiply_stored(const StoredOperandsParams& p) {
    constexpr uint32_t OPERAND = 64 * 128;
    for (uint32_t i = thread_index(); i < OPERAND / 4; i += WARPGROUP) {
        const uint32_t row = i / 32, pair = i % 32, at = row * 128 + ((pair / 4 ^ row % 8) * 4 + pair % 4) * 4;
        store_shared(shared_base() + at, load_global(p.a + i));
        store_shared(shared_base() + OPERAND + at, load_global(p.b + i));
    }
    if (PLANTED == FencePlanted::NOTHING) fence_async_proxy();
    block_barrier();
    if (PLANTED == FencePlanted::LATE) fence_async_proxy();
    const MatrixDescriptor a = describe_matrix(shared_base(), 16), b = describe_matrix(shared_base() + OPERAND, 16);
    float d[32];
    pin_accumulator(d);
    wgmma_fence();
    INFONCE_UNROLL
    for (uint32_t step = 0; step < 4; ++step)
        WarpgroupProduct<bf16, 64>::shared<false, false>(d, a + step * 32, b + step * 32, step > 0);  // planted
    wgmma_commit();
    wgmma_wait<0>();
    pin_accumulator(d);
    const uint32_t row = thread_index() / 32 * 16 + thread_index() % 32 / 4, column = thread_index() % 4 * 2;
    INFONCE_UNROLL
    for (uint32_t i = 0; i < 32; ++i)
        store_global(p.d + (row + i / 2 % 2 * 8) * 64 + i / 4 * 8 + column + i % 2, d[i]);
}

INFONCE_PLANTED(planted_stored_operands_sound, StoredOperandsParams, 128) { multiply_stored<FencePlanted::NOTHING>(p); }
INFONCE_PLANTED(planted_stored_operands_fence, StoredOperandsParams, 128) { multiply_stored<FencePlanted::NONE>(p); }
INFONCE_PLANTED(planted_stored_operands_late_fence, StoredOperandsParams, 128) { multiply_stored<FencePlanted::LATE>(p); }

}  // namespace infonce
