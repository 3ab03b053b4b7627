// Row statistics, and column statistics where columns have a loss, of logits that are never stored:
// 2NMD FLOPs.
#include "similarity/statistics.h"

namespace infonce {

#define INFONCE_BUILD(KERNEL, ...)                           \
    INFONCE_KERNEL(KERNEL, ScoresParams) {                   \
        if (is_needless(p)) return;                          \
        Statistics<ScoresTile> epilogue(p, work_of_block()); \
        score_tiles<list::KERNEL>(p, epilogue);              \
        epilogue.write(shared_base());                       \
    }

INFONCE_STATISTICS(INFONCE_BUILD)

}  // namespace infonce
