// E_ij = 2^(z_ij - o) of a chunk and Σ_j E_ij (similarity/exponentials.h), with wgmma. D exceeds 256, the fused
// gradients' limit, so no kernel has resident anchors.
#include "hopper/scores.h"
#include "hopper/store_boxes.h"
#include "similarity/exponentials.h"

namespace infonce {

#if INFONCE_HOPPER
template <class T>
struct StoredExponentials {
    template <class Tile>
    using Type = Exponentials<T, Tile, BoxStores>;
};
#define INFONCE_BUILD(KERNEL, ...)                                                               \
    INFONCE_CLUSTER_KERNEL(KERNEL, HopperScoresParams) {                                         \
        hopper_score_tiles<list::KERNEL, StoredExponentials<list::KERNEL::T>::template Type>(p); \
    }

INFONCE_HOPPER_EXPONENTIALS(INFONCE_BUILD, hopper_exponentials)
#endif

}  // namespace infonce
