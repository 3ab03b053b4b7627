// Four matrices of 8 rows × 16 bytes from shared memory into the registers of a warp (ldmatrix.x4).
//
// Lanes 8i to 8i + 7 give the row addresses of matrix i. Thread t receives, of each matrix, the 32 bits at row t/4,
// word t%4; transposed, the 16-bit elements at rows 2(t%4) and 2(t%4) + 1 of column t/4.
#pragma once

#include "ptx/kernel.h"
#include "ptx/shared.h"

namespace infonce {

#ifdef __CUDACC__
INFONCE_DEVICE void load_matrices(uint32_t (&r)[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}
INFONCE_DEVICE void load_matrices_transposed(uint32_t (&r)[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}
#else
inline void load_matrices(uint32_t (&r)[4], SharedAddress row, INFONCE_SITE) { emulator::load_matrices(r, row, false, site); }
inline void load_matrices_transposed(uint32_t (&r)[4], SharedAddress row, INFONCE_SITE) {
    emulator::load_matrices(r, row, true, site);
}
#endif

}  // namespace infonce
