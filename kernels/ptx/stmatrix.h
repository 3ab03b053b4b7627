// Four matrices of 8 rows × 16 bytes from the registers of a warp into shared memory (stmatrix.x4, sm_90): the reverse
// of ldmatrix.h.
//
// Lanes 8i to 8i + 7 give the row addresses of matrix i. Thread t gives, of each matrix, the 32 bits at row t/4, word
// t%4. The stores go through the generic proxy. PTX ISA, "stmatrix".
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
