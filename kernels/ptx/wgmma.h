// Matrix products of a warpgroup, 128 threads, d += a·b with f32 sums (wgmma, sm_90a): m64nNk16 of
// 16-bit numbers, m64nNk32 of e4m3. They run asynchronously: fence, issue, commit, wait; between issue and wait the
// accumulators and the operands belong to the products.
//
// d (PTX ISA, "Register Fragments for wgmma.mma_async.m64nNk16"): of warp w of the group, with
// g = lane / 4 and t = lane % 4, entries 4j, 4j + 1: row 16w + g, columns 8j + 2t, 8j + 2t + 1;
// entries 4j + 2, 4j + 3: row 16w + g + 8. So a warp holds what N/8 mma hold (ptx/mma.h), and
// so it is with a in registers.
//
// An operand in shared memory is given by a descriptor ("Shared Memory Matrix Layout"): here always
// rows of 128 bytes, swizzled as slabs are (tile/slab.h), eight rows in 1,024 bytes that start at a
// multiple of 1,024.
//   summed axis along rows     rows of the operand are rows of the slab, 64 numbers of the summed axis
//                              each; 16 of them further on is 32 bytes further on
//   summed axis across rows    (the operand's "transposed" flag) rows of the slab are the summed axis,
//                              64 rows of the operand lie along each; `next` bytes from 64 to the next
// e4m3 takes only the first, with 128 numbers in a row of the slab and 32 of them in 32 bytes.
//
// Sums of e4m3 are kept in f32 with about 14 bits: what is added is first cut off at that distance below the
// largest of what is added with it, the sum so far included (measured on H800: DeepSeek-AI, DeepSeek-V3
// Technical Report, 2024, arXiv 2412.19437, section 3.3.2).
#pragma once

#include "ptx/kernel.h"
#include "ptx/shared.h"

namespace infonce {

constexpr uint32_t WARPGROUP = 128;  // threads

struct MatrixDescriptor {
    uint64_t bits;
    // `bytes` further on in shared memory.
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

// Before the first product, and whenever registers of one have been touched since.
INFONCE_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
INFONCE_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most PENDING groups of products have not ended.
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
// ACROSS: that operand's summed axis lies across rows of its slab. Without `accumulate` d is overwritten.
// Of e4m3 there is shared<false, false>.
template <class T, int N>
struct WarpgroupProduct;

}  // namespace infonce

#include "ptx/wgmma_shapes.h"
