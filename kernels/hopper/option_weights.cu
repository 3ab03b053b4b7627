// Weights of a chunk of rows where the contrast has options (similarity/option_weights.h), with wgmma.
#include "hopper/options.h"
#include "hopper/store_boxes.h"
#include "similarity/option_weights.h"

namespace infonce {

#if INFONCE_HOPPER
template <class T, Terms TERMS>
struct WeightsOf {
    template <class Tile>
    using Type = OptionWeights<T, Tile, TERMS, BoxStores>;
};
#define INFONCE_BUILD(KERNEL, TERMS)                                                                  \
    INFONCE_CLUSTER_KERNEL(KERNEL, HopperOptionScoresParams) {                                        \
        hopper_score_tiles<list::KERNEL, WeightsOf<list::KERNEL::T, Terms::TERMS>::template Type>(p); \
    }
#define INFONCE_BUILD_ONE(KERNEL, ...) INFONCE_BUILD(KERNEL, ONE)
#define INFONCE_BUILD_SETS(KERNEL, ...) INFONCE_BUILD(KERNEL, SETS)
#define INFONCE_BUILD_TWO(KERNEL, ...) INFONCE_BUILD(KERNEL, TWO)
#define INFONCE_BUILD_POINT(KERNEL, ...) INFONCE_BUILD(KERNEL, POINT)

INFONCE_HOPPER_WEIGHTS(INFONCE_BUILD_ONE, hopper_weights_one)
INFONCE_HOPPER_WEIGHTS(INFONCE_BUILD_SETS, hopper_weights_sets)
INFONCE_HOPPER_WEIGHTS(INFONCE_BUILD_TWO, hopper_weights_two)
INFONCE_HOPPER_WEIGHTS(INFONCE_BUILD_POINT, hopper_weights_point)
#endif

}  // namespace infonce
