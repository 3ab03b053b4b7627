// Matrices of 8 × 16 bytes from the registers of a warp into shared memory (stmatrix.x4, sm_90): what
// ldmatrix.h reads, the other way. Lanes 8i to 8i + 7 give the addresses of the rows of matrix i. Thread t
// gives of each matrix the 32 bits at row t/4, word t%4. PTX ISA, "stmatrix"; it stores as a thread's own
// instruction does, for the generic proxy.
#pragma once

#include "ptx/kernel.h"
#include "ptx/shared.h"

namespace infonce {

#ifdef __CUDACC__
INFONCE_DEVICE void store_matrices(SharedAddress row, const uint32_t (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(r[0]), "r"(r[1]),
                 "r"(r[2]), "r"(r[3])
                 : "memory");
}
#else
inline void store_matrices(SharedAddress row, const uint32_t (&r)[4], INFONCE_SITE) { emulator::store_matrices(row, r, site); }
#endif

}  // namespace infonce
