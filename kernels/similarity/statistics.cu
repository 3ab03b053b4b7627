// Statistics m_i = max_j z_ij and Σ_j 2^(z_ij - m_i) of rows, and of columns where columns have a loss. Logits are
// never stored. 2NMD FLOPs.
#include "similarity/statistics.h"

namespace infonce {

#define INFONCE_STATISTICS(NAME, T)                                           \
    INFONCE_KERNEL(statistics_##NAME, ScoresParams, ScoresTile::THREADS, 1) { \
        if (is_needless(p)) return;                                           \
        Statistics<ScoresTile> epilogue(p, work_of_block());                  \
        score_tiles<T>(p, epilogue);                                          \
        epilogue.write(shared_base());                                        \
    }

INFONCE_STATISTICS(bf16, bf16)
INFONCE_STATISTICS(f16, f16)
INFONCE_STATISTICS(f32, float)
INFONCE_STATISTICS(tf32, tf32)

}  // namespace infonce
