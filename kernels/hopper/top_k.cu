// The scores of similarity/top_k.cu with warpgroup products.
#include "hopper/scores.h"
#include "similarity/store_scores.h"

namespace infonce {

#if INFONCE_HOPPER
#define INFONCE_HOPPER_SCORES(NAME, T, RESIDENT_DIM)                                                                  \
    INFONCE_CLUSTER_KERNEL(hopper_scores_##NAME, HopperScoresParams, HopperTile::THREADS, 1, PAIR) {                  \
        hopper_score_tiles<T, false, Scores>(p);                                                                      \
    }                                                                                                                 \
    INFONCE_CLUSTER_KERNEL(hopper_scores_##NAME##_##RESIDENT_DIM, HopperScoresParams, HopperTile::THREADS, 1, PAIR) { \
        hopper_score_tiles<T, true, Scores>(p);                                                                       \
    }

INFONCE_HOPPER_SCORES(bf16, bf16, 256)
INFONCE_HOPPER_SCORES(f16, f16, 256)
INFONCE_HOPPER_SCORES(e4m3, e4m3, 512)
#endif

}  // namespace infonce
