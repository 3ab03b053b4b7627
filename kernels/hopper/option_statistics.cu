// Statistics of rows where the contrast has options (similarity/option_statistics.h), with wgmma.
#include "hopper/options.h"
#include "similarity/option_statistics.h"

namespace infonce {

#if INFONCE_HOPPER
template <Terms TERMS>
struct StatisticsOf {
    template <class Tile>
    using Type = OptionStatistics<Tile, TERMS>;
};
#define INFONCE_BUILD(KERNEL, TERMS)                                                 \
    INFONCE_CLUSTER_KERNEL(KERNEL, HopperOptionScoresParams) {                       \
        hopper_score_tiles<list::KERNEL, StatisticsOf<Terms::TERMS>::template Type>(p); \
    }
#define INFONCE_BUILD_ONE(KERNEL, ...) INFONCE_BUILD(KERNEL, ONE)
#define INFONCE_BUILD_SETS(KERNEL, ...) INFONCE_BUILD(KERNEL, SETS)
#define INFONCE_BUILD_TWO(KERNEL, ...) INFONCE_BUILD(KERNEL, TWO)
#define INFONCE_BUILD_POINT(KERNEL, ...) INFONCE_BUILD(KERNEL, POINT)

INFONCE_HOPPER_WEIGHTS(INFONCE_BUILD_ONE, hopper_statistics_one)
INFONCE_HOPPER_WEIGHTS(INFONCE_BUILD_SETS, hopper_statistics_sets)
INFONCE_HOPPER_WEIGHTS(INFONCE_BUILD_TWO, hopper_statistics_two)
INFONCE_HOPPER_WEIGHTS(INFONCE_BUILD_POINT, hopper_statistics_point)
#endif

}  // namespace infonce
