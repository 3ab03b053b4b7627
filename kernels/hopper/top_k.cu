// The scores of similarity/top_k.cu with warpgroup products.
#include "hopper/scores.h"
#include "similarity/store_scores.h"

namespace infonce {

#if INFONCE_HOPPER
#define INFONCE_HOPPER_SCORES(NAME, T)                                                             \
    INFONCE_KERNEL(hopper_scores_##NAME, HopperScoresParams, HopperTile::THREADS, 1) {             \
        hopper_score_tiles<T, false, Scores>(p);                                                   \
    }                                                                                              \
    INFONCE_KERNEL(hopper_scores_##NAME##_256, HopperScoresParams, HopperTile::THREADS, 1) {       \
        hopper_score_tiles<T, true, Scores>(p);                                                    \
    }

INFONCE_HOPPER_SCORES(bf16, bf16)
INFONCE_HOPPER_SCORES(f16, f16)
#endif

}  // namespace infonce
