// Matrix products of a warp, d += a·b with f32 sums: m16n8k16 for 16-bit types, m16n8k8 for tf32.
//
// Fragments (PTX ISA, "Matrix Fragments for mma"), with g = lane / 4 and t = lane % 4:
//   d        d0, d1: row g, columns 2t, 2t + 1;  d2, d3: row g + 8
//   16 bits  a0: row g, k 2t and 2t + 1;  a1: row g + 8;  a2, a3: as a0, a1 at k + 8
//            b0: k 2t and 2t + 1, column g;  b1: k + 8
//   tf32     a0: row g, k t;  a1: row g + 8;  a2, a3: as a0, a1 at k + 4
//            b0: k t, column g;  b1: k + 4
#pragma once

#include "ptx/kernel.h"

namespace infonce {

#ifdef __CUDACC__
#define INFONCE_MMA(NAME, INSTRUCTION)                                                                        \
    INFONCE_DEVICE void NAME(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {                 \
        asm(INSTRUCTION " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"           \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                         \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                     \
    }
INFONCE_MMA(mma_bf16, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32")
INFONCE_MMA(mma_f16, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32")
INFONCE_MMA(mma_tf32, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32")
#undef INFONCE_MMA
#else
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], INFONCE_SITE) {
    emulator::mma(d, a, b, emulator::ElementType::BF16, site);
}
inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], INFONCE_SITE) {
    emulator::mma(d, a, b, emulator::ElementType::F16, site);
}
inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], INFONCE_SITE) {
    emulator::mma(d, a, b, emulator::ElementType::TF32, site);
}
#endif

}  // namespace infonce
