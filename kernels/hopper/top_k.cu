// ⟨q_i, k_j⟩ of a chunk, stored whole or as lists of the best (similarity/top_k.cu), with wgmma.
#include "hopper/scores.h"
#include "similarity/best_lists.h"
#include "similarity/store_scores.h"

namespace infonce {

#if INFONCE_HOPPER
#define INFONCE_HOPPER_SCORES(NAME, T, RESIDENT)                                                     \
    INFONCE_CLUSTER_KERNEL(hopper_scores_##NAME, HopperScoresParams, HopperTile::THREADS, 1, PAIR) { \
        hopper_score_tiles<T, RESIDENT, Scores>(p);                                                  \
    }                                                                                                \
    INFONCE_CLUSTER_KERNEL(hopper_best_##NAME, HopperScoresParams, HopperTile::THREADS, 1, PAIR) {   \
        hopper_score_tiles<T, RESIDENT, BestScores>(p);                                              \
    }

INFONCE_HOPPER_SCORES(bf16, bf16, false)
INFONCE_HOPPER_SCORES(bf16_256, bf16, true)
INFONCE_HOPPER_SCORES(f16, f16, false)
INFONCE_HOPPER_SCORES(f16_256, f16, true)
INFONCE_HOPPER_SCORES(e4m3, e4m3, false)
INFONCE_HOPPER_SCORES(e4m3_512, e4m3, true)
#endif

}  // namespace infonce
