// A product of 64 × 64 by a warpgroup whose operands come in slabs through two stages: one thread copies, four warps
// multiply. Planted: the products have no fence; the operands are released before the products that read them have
// ended; the sums are read while products in flight own them; one thread's descriptor differs from its warpgroup's.
//
// The sound twin also reads operands whose summed axis lies across rows, and a from registers. A product of e4m3 has no
// twin.
#include "ptx/barrier.h"
#include "ptx/global.h"
#include "ptx/kernel.h"
#include "ptx/mbarrier.h"
#include "ptx/registers.h"
#include "ptx/shared.h"
#include "ptx/tensor_copy.h"
#include "ptx/wgmma.h"

namespace infonce {

struct WarpgroupParams {
    TensorMap a, b;  // along rows: 64 × k; across: k × 64
    float* d;        // 64 × 64
    uint32_t slabs;  // of 64 of the summed axis
    uint32_t across;
};

enum class Planted { NOTHING, FENCE, EARLY_RELEASE, EARLY_READ, DESCRIPTOR };

constexpr uint32_t PLANTED_SLAB = 64 * 128, PLANTED_STAGES = 2;

template <Planted PLANTED>
INFONCE_DEVICE void multiply_slabs(const WarpgroupParams& p) {
    const SharedAddress slabs = shared_base(), full = slabs + 2 * PLANTED_STAGES * PLANTED_SLAB;
    const SharedAddress empty = full + PLANTED_STAGES * MBARRIER_BYTES;
    if (thread_index() == 0) {
        for (uint32_t stage = 0; stage < PLANTED_STAGES; ++stage) {
            mbarrier_init(full + stage * MBARRIER_BYTES, 1);
            mbarrier_init(empty + stage * MBARRIER_BYTES, WARPGROUP / 32);
        }
        fence_mbarrier_init();
    }
    block_barrier();
    if (thread_index() >= WARPGROUP) {
        give_registers<24>();
        if (thread_index() > WARPGROUP) return;
        for (uint32_t slab = 0; slab < p.slabs; ++slab) {
            const uint32_t stage = slab % PLANTED_STAGES, round = slab / PLANTED_STAGES;
            const SharedAddress to = slabs + stage * 2 * PLANTED_SLAB, arrived = full + stage * MBARRIER_BYTES;
            if (round > 0) mbarrier_wait(empty + stage * MBARRIER_BYTES, (round - 1) % 2);
            mbarrier_arrive_expect(arrived, 2 * PLANTED_SLAB);
            copy_box(to, p.a, p.across ? 0 : 64 * slab, p.across ? 64 * slab : 0, arrived);  // overwriting
            copy_box(to + PLANTED_SLAB, p.b, p.across ? 0 : 64 * slab, p.across ? 64 * slab : 0, arrived);
        }
        return;
    }
    take_registers<64>();
    float d[32];
    for (uint32_t slab = 0; slab < p.slabs; ++slab) {
        const uint32_t stage = slab % PLANTED_STAGES, round = slab / PLANTED_STAGES;
        const SharedAddress from = slabs + stage * 2 * PLANTED_SLAB, left = empty + stage * MBARRIER_BYTES;
        mbarrier_wait(full + stage * MBARRIER_BYTES, round % 2);
        MatrixDescriptor a = describe_matrix(from, 16), b = describe_matrix(from + PLANTED_SLAB, 16);
        if (PLANTED == Planted::DESCRIPTOR && thread_index() == 77) b = b + 32;
        pin_accumulator(d);
        if (PLANTED != Planted::FENCE) wgmma_fence();
        INFONCE_UNROLL
        for (uint32_t step = 0; step < 4; ++step) {
            const bool accumulate = slab > 0 || step > 0;
            if (p.across)
                WarpgroupProduct<bf16, 64>::shared<true, true>(d, a + step * 2048, b + step * 2048, accumulate);
            else
                WarpgroupProduct<bf16, 64>::shared<false, false>(d, a + step * 32, b + step * 32, accumulate);  // issued
        }
        wgmma_commit();
        if (PLANTED == Planted::EARLY_RELEASE && thread_index() % 32 == 0) mbarrier_arrive(left);
        if (PLANTED != Planted::EARLY_READ || slab + 1 < p.slabs) wgmma_wait<0>();
        pin_accumulator(d);
        if (PLANTED != Planted::EARLY_RELEASE && thread_index() % 32 == 0) mbarrier_arrive(left);
    }
    const uint32_t row = thread_index() / 32 * 16 + thread_index() % 32 / 4, column = thread_index() % 4 * 2;
    INFONCE_UNROLL
    for (uint32_t i = 0; i < 32; ++i)
        store_global(p.d + (row + i / 2 % 2 * 8) * 64 + i / 4 * 8 + column + i % 2, d[i]);
    if (PLANTED == Planted::EARLY_READ) wgmma_wait<0>();
}

INFONCE_PLANTED(planted_warpgroup_fence, WarpgroupParams, 256) { multiply_slabs<Planted::FENCE>(p); }
INFONCE_PLANTED(planted_warpgroup_early_release, WarpgroupParams, 256) { multiply_slabs<Planted::EARLY_RELEASE>(p); }
INFONCE_PLANTED(planted_warpgroup_early_read, WarpgroupParams, 256) { multiply_slabs<Planted::EARLY_READ>(p); }
INFONCE_PLANTED(planted_warpgroup_descriptor, WarpgroupParams, 256) { multiply_slabs<Planted::DESCRIPTOR>(p); }
INFONCE_PLANTED(planted_warpgroup_sound, WarpgroupParams, 256) { multiply_slabs<Planted::NOTHING>(p); }

// d = a·b with a's fragments in registers and b's summed axis across rows, as the second product of a gradient has
// them. One slab of each.
INFONCE_PLANTED(planted_warpgroup_registers, WarpgroupParams, 128) {
    const SharedAddress b = shared_base(), arrived = b + PLANTED_SLAB;
    if (thread_index() == 0) {
        mbarrier_init(arrived, 1);
        fence_mbarrier_init();
    }
    block_barrier();
    if (thread_index() == 0) {
        mbarrier_arrive_expect(arrived, PLANTED_SLAB);
        copy_box(b, p.b, 0, 0, arrived);
    }
    const uint32_t row = thread_index() / 32 * 16 + thread_index() % 32 / 4, place = thread_index() % 4 * 2;
    const bf16* a = reinterpret_cast<const bf16*>(p.d + 64 * 64);  // 64 × 64 follow d
    mbarrier_wait(arrived, 0);
    float d[32];
    pin_accumulator(d);
    wgmma_fence();
    INFONCE_UNROLL
    for (uint32_t step = 0; step < 4; ++step) {
        uint32_t fragment[4];
        INFONCE_UNROLL
        for (uint32_t i = 0; i < 4; ++i)
            fragment[i] = load_global(reinterpret_cast<const uint32_t*>(a + (row + i % 2 * 8) * 64 + step * 16 + place + i / 2 * 8));
        WarpgroupProduct<bf16, 64>::registers<true>(d, fragment, describe_matrix(b, 16) + step * 2048, step > 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
    pin_accumulator(d);
    INFONCE_UNROLL
    for (uint32_t i = 0; i < 32; ++i)
        store_global(p.d + (row + i / 2 % 2 * 8) * 64 + i / 4 * 8 + place + i % 2, d[i]);
}

// d = a·bᵀ of 64 and 256 rows of e4m3, in slabs of 128 elements, one after the other.
INFONCE_PLANTED(planted_warpgroup_e4m3, WarpgroupParams, 128) {
    constexpr uint32_t COLUMNS = 256;
    const SharedAddress a = shared_base(), b = a + PLANTED_SLAB, arrived = b + COLUMNS * 128;
    if (thread_index() == 0) {
        mbarrier_init(arrived, 1);
        fence_mbarrier_init();
    }
    float d[COLUMNS / 2];
    for (uint32_t slab = 0; slab < p.slabs; ++slab) {
        block_barrier();
        if (thread_index() == 0) {
            mbarrier_arrive_expect(arrived, PLANTED_SLAB + COLUMNS * 128);
            copy_box(a, p.a, 128 * slab, 0, arrived);
            copy_box(b, p.b, 128 * slab, 0, arrived);
        }
        mbarrier_wait(arrived, slab % 2);
        pin_accumulator(d);
        wgmma_fence();
        INFONCE_UNROLL
        for (uint32_t step = 0; step < 4; ++step)
            WarpgroupProduct<e4m3, COLUMNS>::shared<false, false>(d, describe_matrix(a, 16) + step * 32,
                                                                  describe_matrix(b, 16) + step * 32, slab > 0 || step > 0);
        wgmma_commit();
        wgmma_wait<0>();
        pin_accumulator(d);
    }
    const uint32_t row = thread_index() / 32 * 16 + thread_index() % 32 / 4, column = thread_index() % 4 * 2;
    INFONCE_UNROLL
    for (uint32_t i = 0; i < COLUMNS / 2; ++i)
        store_global(p.d + (row + i / 2 % 2 * 8) * COLUMNS + i / 4 * 8 + column + i % 2, d[i]);
}

}  // namespace infonce
