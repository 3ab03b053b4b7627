// ⟨q_i, k_j⟩ of a chunk, with wgmma: all stored (hopper_scores), or lists of the best (hopper_best, best_lists.h).
#include "hopper/scores.h"
#include "similarity/best_lists.h"
#include "similarity/store_scores.h"

namespace infonce {

#if INFONCE_HOPPER
#define INFONCE_ALL(KERNEL, ...) \
    INFONCE_CLUSTER_KERNEL(KERNEL, HopperScoresParams) { hopper_score_tiles<list::KERNEL, Scores>(p); }
#define INFONCE_BEST(KERNEL, ...) \
    INFONCE_CLUSTER_KERNEL(KERNEL, HopperScoresParams) { hopper_score_tiles<list::KERNEL, BestScores>(p); }

INFONCE_HOPPER_SCORES(INFONCE_ALL, hopper_scores)
INFONCE_HOPPER_SCORES(INFONCE_BEST, hopper_best)
#endif

}  // namespace infonce
