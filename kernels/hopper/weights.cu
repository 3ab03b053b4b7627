// W_ij = 2^(z_ij - o_i) + 2^(z_ij - o_j), the first term or both, of a chunk (similarity/weights.h), with wgmma.
#include "hopper/scores.h"
#include "hopper/store_boxes.h"
#include "similarity/weights.h"

namespace infonce {

#if INFONCE_HOPPER
template <class T>
struct StoredWeights {
    template <class Tile>
    using Type = Weights<T, Tile, BoxStores>;
};
#define INFONCE_BUILD(KERNEL, ...)                                                          \
    INFONCE_CLUSTER_KERNEL(KERNEL, HopperScoresParams) {                                    \
        hopper_score_tiles<list::KERNEL, StoredWeights<list::KERNEL::T>::template Type>(p); \
    }

INFONCE_HOPPER_WEIGHTS(INFONCE_BUILD, hopper_weights)
#endif

}  // namespace infonce
