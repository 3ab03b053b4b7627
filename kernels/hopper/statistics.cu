// Statistics m_i = max_j z_ij, Σ_j 2^(z_ij - m_i) of rows and columns (similarity/statistics.h), with wgmma.
#include "hopper/scores.h"
#include "similarity/statistics.h"

namespace infonce {

#if INFONCE_HOPPER
#define INFONCE_HOPPER_STATISTICS(NAME, T, RESIDENT_DIM)                                                                  \
    INFONCE_CLUSTER_KERNEL(hopper_statistics_##NAME, HopperScoresParams, HopperTile::THREADS, 1, PAIR) {                  \
        hopper_score_tiles<T, false, Statistics>(p);                                                                      \
    }                                                                                                                     \
    INFONCE_CLUSTER_KERNEL(hopper_statistics_##NAME##_##RESIDENT_DIM, HopperScoresParams, HopperTile::THREADS, 1, PAIR) { \
        hopper_score_tiles<T, true, Statistics>(p);                                                                       \
    }

INFONCE_HOPPER_STATISTICS(bf16, bf16, 256)
INFONCE_HOPPER_STATISTICS(f16, f16, 256)
INFONCE_HOPPER_STATISTICS(e4m3, e4m3, 512)
#endif

}  // namespace infonce
