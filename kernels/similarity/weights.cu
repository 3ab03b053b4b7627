// W_ij = 2^(z_ij - lse_i) + 2^(z_ij - lse_j) of a chunk of rows, for D that the fused gradient does not hold in
// registers. 2NMD FLOPs; product.cu multiplies them. The next chunk overwrites this one, so the whole matrix is never
// stored.
#include "similarity/weights.h"

namespace infonce {

#define INFONCE_WEIGHTS(NAME, T)                                           \
    INFONCE_KERNEL(weights_##NAME, ScoresParams, ScoresTile::THREADS, 1) { \
        Weights<T, ScoresTile> epilogue(p, work_of_block());               \
        score_tiles<T>(p, epilogue);                                       \
    }

INFONCE_WEIGHTS(bf16, bf16)
INFONCE_WEIGHTS(f16, f16)
INFONCE_WEIGHTS(f32, float)
INFONCE_WEIGHTS(tf32, tf32)

}  // namespace infonce
