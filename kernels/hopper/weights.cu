// W_ij = 2^(z_ij - lse_i) + 2^(z_ij - lse_j) of a chunk (similarity/weights.h), with wgmma.
#include "hopper/scores.h"
#include "hopper/store_boxes.h"
#include "similarity/weights.h"

namespace infonce {

#if INFONCE_HOPPER
template <class Tile>
using WeightsBf16 = Weights<bf16, Tile, BoxStores>;
template <class Tile>
using WeightsF16 = Weights<f16, Tile, BoxStores>;

#define INFONCE_HOPPER_WEIGHTS(NAME, T, EPILOGUE)                                                           \
    INFONCE_CLUSTER_KERNEL(hopper_weights_##NAME, HopperScoresParams, HopperTile::THREADS, 1, PAIR) {       \
        hopper_score_tiles<T, false, EPILOGUE>(p);                                                          \
    }                                                                                                       \
    INFONCE_CLUSTER_KERNEL(hopper_weights_##NAME##_256, HopperScoresParams, HopperTile::THREADS, 1, PAIR) { \
        hopper_score_tiles<T, true, EPILOGUE>(p);                                                           \
    }

INFONCE_HOPPER_WEIGHTS(bf16, bf16, WeightsBf16)
INFONCE_HOPPER_WEIGHTS(f16, f16, WeightsF16)
#endif

}  // namespace infonce
