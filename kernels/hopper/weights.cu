// weights.cu of similarity/ with warpgroup products.
#include "hopper/scores.h"
#include "similarity/weights.h"

namespace infonce {

#if INFONCE_HOPPER
template <class Tile>
using WeightsBf16 = Weights<bf16, Tile>;
template <class Tile>
using WeightsF16 = Weights<f16, Tile>;

INFONCE_KERNEL(hopper_weights_bf16, HopperScoresParams, HopperTile::THREADS, 1) {
    hopper_score_tiles<bf16, false, WeightsBf16>(p);
}
INFONCE_KERNEL(hopper_weights_f16, HopperScoresParams, HopperTile::THREADS, 1) {
    hopper_score_tiles<f16, false, WeightsF16>(p);
}
#endif

}  // namespace infonce
