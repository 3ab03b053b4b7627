// Statistics m_i = max_j z_ij and S_i = Σ_j 2^(z_ij - m_i) of rows, and of columns where columns have a loss. Logits
// are never stored. 2NMD FLOPs.
#include "similarity/statistics.h"

namespace infonce {

#define INFONCE_BUILD(KERNEL, ...)                           \
    INFONCE_KERNEL(KERNEL, ScoresParams) {                   \
        if (is_needless(p)) return;                          \
        Statistics<ScoresTile> epilogue(p, work_of_block()); \
        score_tiles<list::KERNEL>(p, epilogue);              \
        epilogue.write(shared_base());                       \
    }

INFONCE_TILE(INFONCE_BUILD, statistics)

}  // namespace infonce
