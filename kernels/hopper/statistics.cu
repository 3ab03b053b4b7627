// Statistics m_i = max_j z_ij, S_i = Σ_j 2^(z_ij - m_i) of rows and columns (similarity/statistics.h), with wgmma.
#include "hopper/scores.h"
#include "similarity/statistics.h"

namespace infonce {

#if INFONCE_HOPPER
#define INFONCE_BUILD(KERNEL, ...) \
    INFONCE_CLUSTER_KERNEL(KERNEL, HopperScoresParams) { hopper_score_tiles<list::KERNEL, Statistics>(p); }

INFONCE_HOPPER_SCORES(INFONCE_BUILD, hopper_statistics)
#endif

}  // namespace infonce
