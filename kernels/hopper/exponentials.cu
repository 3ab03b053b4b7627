// exponentials.cu of similarity/ with warpgroup products; D is above what the fused kernels hold, and
// so above what resident anchors do.
#include "hopper/scores.h"
#include "hopper/store_boxes.h"
#include "similarity/exponentials.h"

namespace infonce {

#if INFONCE_HOPPER
template <class Tile>
using ExponentialsBf16 = Exponentials<bf16, Tile, BoxStores>;
template <class Tile>
using ExponentialsF16 = Exponentials<f16, Tile, BoxStores>;

INFONCE_CLUSTER_KERNEL(hopper_exponentials_bf16, HopperScoresParams, HopperTile::THREADS, 1, PAIR) {
    hopper_score_tiles<bf16, false, ExponentialsBf16>(p);
}
INFONCE_CLUSTER_KERNEL(hopper_exponentials_f16, HopperScoresParams, HopperTile::THREADS, 1, PAIR) {
    hopper_score_tiles<f16, false, ExponentialsF16>(p);
}
#endif

}  // namespace infonce
