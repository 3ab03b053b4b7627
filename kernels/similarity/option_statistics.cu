// Statistics of rows where the contrast has options (option_statistics.h). Logits are never stored. 2NMD FLOPs.
#include "similarity/option_statistics.h"

namespace infonce {

#define INFONCE_BUILD(KERNEL, TERMS)                                             \
    INFONCE_KERNEL(KERNEL, OptionScoresParams) {                                 \
        OptionStatistics<ScoresTile, Terms::TERMS> epilogue(p, work_of_block()); \
        score_tiles<list::KERNEL>(p, epilogue);                                  \
        epilogue.write(shared_base());                                           \
    }
#define INFONCE_BUILD_ONE(KERNEL, ...) INFONCE_BUILD(KERNEL, ONE)
#define INFONCE_BUILD_SETS(KERNEL, ...) INFONCE_BUILD(KERNEL, SETS)
#define INFONCE_BUILD_TWO(KERNEL, ...) INFONCE_BUILD(KERNEL, TWO)
#define INFONCE_BUILD_POINT(KERNEL, ...) INFONCE_BUILD(KERNEL, POINT)

INFONCE_TILE(INFONCE_BUILD_ONE, statistics_one)
INFONCE_TILE(INFONCE_BUILD_SETS, statistics_sets)
INFONCE_TILE(INFONCE_BUILD_TWO, statistics_two)
INFONCE_TILE(INFONCE_BUILD_POINT, statistics_point)

}  // namespace infonce
