// E_ij = 2^(z_ij - o_i) of a chunk and its row sums (similarity/exponentials.h), with wgmma. D exceeds what the fused
// kernels hold, so no build has resident anchors.
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
