// A product of 64 × 64 by a warpgroup whose operands come in slabs through two stages: one thread copies, four warps
// multiply. Planted: the products have no fence; the operands are released before the products that read them have
// ended; the sums are read while products in flight own them; one thread's descriptor differs from its warpgroup's.
//
// The sound twin also reads operands whose summed axis lies across rows. Below it are a product with a in registers and
// one of e4m3, with nothing planted.
#include "emulator/planted/product.h"

namespace infonce {

struct WarpgroupParams {
    TensorMap a, b;  // along rows: 64 × k; across: k × 64
    float* d;        // 64 × 64
    uint32_t slabs;  // of 64 of the summed axis
    uint32_t across;
};

enum class Planted { NOTHING, FENCE, EARLY_RELEASE, EARLY_READ, DESCRIPTOR };

template <Planted PLANTED>
INFONCE_DEVICE void multiply(const WarpgroupParams& p) {
    const OperandRing ring;
    if (thread_index() == 0) {
        ring.init(WARPGROUP / 32);
        fence_mbarrier_init();
    }
    block_barrier();
    PipelineState<2> state;
    if (thread_index() >= WARPGROUP) {
        give_registers<24>();
        if (thread_index() > WARPGROUP) return;
        for (uint32_t slab = 0; slab < p.slabs; ++slab, state.advance()) {
            const SharedAddress arrived = ring.fill(state, 2 * OPERAND_BYTES);
            const uint32_t column = p.across ? 0 : 64 * slab, row = p.across ? 64 * slab : 0;
            copy_box(ring.a(state.stage), p.a, column, row, arrived);
            copy_box(ring.b(state.stage), p.b, column, row, arrived);
        }
        return;
    }
    take_registers<64>();
    float d[32];
    for (uint32_t slab = 0; slab < p.slabs; ++slab, state.advance()) {
        ring.wait(state);
        MatrixDescriptor a = describe_matrix(ring.a(state.stage), 16), b = describe_matrix(ring.b(state.stage), 16);
        if (PLANTED == Planted::DESCRIPTOR && thread_index() == 77) b = b + 32;
        if (PLANTED != Planted::FENCE) wgmma_fence();
        for (uint32_t step = 0; step < 4; ++step) {
            const bool accumulate = slab > 0 || step > 0;
            if (p.across)
                WarpgroupProduct<bf16, 64>::shared<true, true>(d, a + step * 2048, b + step * 2048, accumulate);
            else
                WarpgroupProduct<bf16, 64>::shared<false, false>(d, a + step * 32, b + step * 32, accumulate);
        }
        wgmma_commit();
        if (PLANTED == Planted::EARLY_RELEASE) ring.release(state.stage);
        if (PLANTED != Planted::EARLY_READ || slab + 1 < p.slabs) wgmma_wait<0>();
        if (PLANTED != Planted::EARLY_RELEASE) ring.release(state.stage);
    }
    store_product(p.d, d);
    if (PLANTED == Planted::EARLY_READ) wgmma_wait<0>();
}

INFONCE_PLANTED(planted_warpgroup_fence, WarpgroupParams, 256) { multiply<Planted::FENCE>(p); }
INFONCE_PLANTED(planted_warpgroup_early_release, WarpgroupParams, 256) { multiply<Planted::EARLY_RELEASE>(p); }
INFONCE_PLANTED(planted_warpgroup_early_read, WarpgroupParams, 256) { multiply<Planted::EARLY_READ>(p); }
INFONCE_PLANTED(planted_warpgroup_descriptor, WarpgroupParams, 256) { multiply<Planted::DESCRIPTOR>(p); }
INFONCE_PLANTED(planted_warpgroup_sound, WarpgroupParams, 256) { multiply<Planted::NOTHING>(p); }

// d = a·b with a's fragments in registers and b's summed axis across rows, as the second product of a gradient has
// them. One slab of each.
INFONCE_PLANTED(planted_warpgroup_registers, WarpgroupParams, 128) {
    const SharedAddress b = shared_base(), arrived = b + OPERAND_BYTES;
    if (thread_index() == 0) {
        mbarrier_init(arrived, 1);
        fence_mbarrier_init();
    }
    block_barrier();
    if (thread_index() == 0) {
        mbarrier_arrive_expect(arrived, OPERAND_BYTES);
        copy_box(b, p.b, 0, 0, arrived);
    }
    const uint32_t row = thread_index() / 32 * 16 + thread_index() % 32 / 4, column = thread_index() % 4 * 2;
    const bf16* a = reinterpret_cast<const bf16*>(p.d + 64 * 64);  // 64 × 64 follow d
    mbarrier_wait(arrived, 0);
    float d[32];
    wgmma_fence();
    for (uint32_t step = 0; step < 4; ++step) {
        uint32_t fragment[4];
        for (uint32_t i = 0; i < 4; ++i)
            fragment[i] = load_global(reinterpret_cast<const uint32_t*>(a + (row + i % 2 * 8) * 64 + step * 16 + column + i / 2 * 8));
        WarpgroupProduct<bf16, 64>::registers<true>(d, fragment, describe_matrix(b, 16) + step * 2048, step > 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
    store_product(p.d, d);
}

// d = a·bᵀ of 64 and 256 rows of e4m3, in slabs of 128 elements, one after the other.
INFONCE_PLANTED(planted_warpgroup_e4m3, WarpgroupParams, 128) {
    constexpr uint32_t COLUMNS = 256;
    const SharedAddress a = shared_base(), b = a + OPERAND_BYTES, arrived = b + COLUMNS * 128;
    if (thread_index() == 0) {
        mbarrier_init(arrived, 1);
        fence_mbarrier_init();
    }
    float d[COLUMNS / 2];
    for (uint32_t slab = 0; slab < p.slabs; ++slab) {
        block_barrier();
        if (thread_index() == 0) {
            mbarrier_arrive_expect(arrived, OPERAND_BYTES + COLUMNS * 128);
            copy_box(a, p.a, 128 * slab, 0, arrived);
            copy_box(b, p.b, 128 * slab, 0, arrived);
        }
        mbarrier_wait(arrived, slab % 2);
        wgmma_fence();
        for (uint32_t step = 0; step < 4; ++step)
            WarpgroupProduct<e4m3, COLUMNS>::shared<false, false>(d, describe_matrix(a, 16) + step * 32,
                                                                  describe_matrix(b, 16) + step * 32, slab > 0 || step > 0);
        wgmma_commit();
        wgmma_wait<0>();
    }
    store_product(p.d, d);
}

}  // namespace infonce
