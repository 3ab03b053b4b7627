// statistics.cu of similarity/ with warpgroup products.
#include "hopper/scores.h"
#include "similarity/statistics.h"

namespace infonce {

#if INFONCE_HOPPER
#define INFONCE_HOPPER_STATISTICS(NAME, T)                                                             \
    INFONCE_KERNEL(hopper_statistics_##NAME, HopperScoresParams, HopperTile::THREADS, 1) {             \
        hopper_score_tiles<T, false, Statistics>(p);                                                   \
    }                                                                                                  \
    INFONCE_KERNEL(hopper_statistics_##NAME##_256, HopperScoresParams, HopperTile::THREADS, 1) {       \
        hopper_score_tiles<T, true, Statistics>(p);                                                    \
    }

INFONCE_HOPPER_STATISTICS(bf16, bf16)
INFONCE_HOPPER_STATISTICS(f16, f16)
#endif

}  // namespace infonce
