// Matrix products of a warpgroup (128 threads), d += a·b with f32 sums (wgmma, sm_90a): m64nNk16 of 16-bit types,
// m64nNk32 of e4m3. They are asynchronous: fence, issue, commit, wait. Between issue and wait nothing else touches the
// accumulators and the operands.
//
// d (PTX ISA, "Register Fragments for wgmma.mma_async.m64nNk16"): in warp w of the warpgroup, with g = lane / 4 and t =
// lane % 4, entries 4j, 4j + 1 are row 16w + g, columns 8j + 2t, 8j + 2t + 1; entries 4j + 2, 4j + 3 are row 16w + g +
// 8. So a warp holds what N/8 mma hold (ptx/mma.h); an operand a in registers has the layout of an mma's.
//
// A descriptor names an operand in shared memory ("Shared Memory Matrix Layout"). Here operands always have rows of 128
// bytes, swizzled as slabs are (tile/slab.h), eight rows in 1,024 bytes that start at a multiple of 1,024.
//   summed axis along rows     rows of the operand are rows of the slab, 64 elements of the summed axis each;
//                              the next 16 start 32 bytes further on; `next` is unused, callers pass 16
//   summed axis across rows    (the operand's "transposed" flag) rows of the slab are the summed axis; each holds
//                              64 rows of the operand, and the next 64 start `next` bytes further on
// e4m3: the summed axis along rows only, 128 elements in a row of the slab and 32 of them in 32 bytes.
//
// Sums of e4m3 keep about 14 bits in f32: addends are truncated at that distance below the largest of them, the sum so
// far included (measured on H800: DeepSeek-AI, DeepSeek-V3 Technical Report, 2024, arXiv 2412.19437, section 3.3.2).
#pragma once

#include "ptx/kernel.h"
#include "ptx/shared.h"

namespace infonce {

constexpr uint32_t WARPGROUP = 128;  // threads

struct MatrixDescriptor {
    uint64_t bits;
    // The operand `bytes` further on in shared memory.
    INFONCE_DEVICE MatrixDescriptor operator+(uint32_t bytes) const { return {bits + (bytes >> 4)}; }
};

constexpr uint32_t EIGHT_ROWS = 1024;  // bytes

// Fields, from bit 0: address / 16 (14 bits); bit 16: `next` / 16; bit 32: bytes between groups of
// eight rows / 16; bits 62 and 63: swizzle, 1 for 128 bytes.
INFONCE_DEVICE MatrixDescriptor describe_matrix(SharedAddress address, uint32_t next) {
    return {uint64_t((address & 0x3ffff) >> 4) | uint64_t(next >> 4) << 16 | uint64_t(EIGHT_ROWS >> 4) << 32 |
            uint64_t(1) << 62};
}

#ifdef __CUDACC__

// Before the first product, and after any other access to a product's registers.
INFONCE_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
INFONCE_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most PENDING groups of products are pending.
template <int PENDING>
INFONCE_DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// Keeps the compiler from moving accesses to an accumulator past this point.
template <int ENTRIES>
INFONCE_DEVICE void pin_accumulator(float (&d)[ENTRIES]) {
    INFONCE_UNROLL
    for (int i = 0; i < ENTRIES; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#else

inline void wgmma_fence(INFONCE_SITE) { emulator::wgmma_fence(site); }
inline void wgmma_commit(INFONCE_SITE) { emulator::wgmma_commit(site); }
template <int PENDING>
inline void wgmma_wait(INFONCE_SITE) {
    emulator::wgmma_wait(PENDING, site);
}
template <int ENTRIES>
inline void pin_accumulator(float (&)[ENTRIES]) {}

#endif

// WarpgroupProduct<T, N>, both operands in shared memory:
//     shared<A_ACROSS, B_ACROSS>(d, a, b, accumulate)
// or a in registers, as fragments of an mma:
//     registers<B_ACROSS>(d, a, b, accumulate)
// ACROSS: that operand's summed axis lies across rows of its slab. Without `accumulate` d is overwritten. e4m3 has
// shared<false, false> only.
template <class T, int N>
struct WarpgroupProduct;

}  // namespace infonce

#include "ptx/wgmma_shapes.h"
