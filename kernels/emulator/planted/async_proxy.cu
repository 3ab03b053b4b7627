// A product of 64 × 64 by a warpgroup, with operands that its threads have stored. Planted: no fence; a fence only
// after the barrier behind which the products start.
#include "emulator/planted/product.h"
#include "ptx/async_proxy.h"

namespace infonce {

struct StoredOperandsParams {
    const uint32_t* a;  // 64 × 64 elements, in pairs
    const uint32_t* b;
    float* d;
};

enum class FencePlanted { NOTHING, NONE, LATE };

template <FencePlanted PLANTED>
INFONCE_DEVICE void multiply_stored(const StoredOperandsParams& p) {
    const SharedAddress a = shared_base(), b = a + OPERAND_BYTES;
    for (uint32_t i = thread_index(); i < OPERAND_BYTES / 4; i += WARPGROUP) {
        const uint32_t row = i / 32, pair = i % 32, at = row * 128 + ((pair / 4 ^ row % 8) * 4 + pair % 4) * 4;
        store_shared(a + at, load_global(p.a + i));
        store_shared(b + at, load_global(p.b + i));
    }
    if (PLANTED == FencePlanted::NOTHING) fence_async_proxy();
    block_barrier();
    if (PLANTED == FencePlanted::LATE) fence_async_proxy();
    float d[32];
    multiply_slabs(d, a, b, false);  // planted
    store_product(p.d, d);
}

INFONCE_PLANTED(planted_stored_operands_sound, StoredOperandsParams, 128) { multiply_stored<FencePlanted::NOTHING>(p); }
INFONCE_PLANTED(planted_stored_operands_fence, StoredOperandsParams, 128) { multiply_stored<FencePlanted::NONE>(p); }
INFONCE_PLANTED(planted_stored_operands_late_fence, StoredOperandsParams, 128) { multiply_stored<FencePlanted::LATE>(p); }

}  // namespace infonce
