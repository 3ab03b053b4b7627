// W_ij = 2^(z_ij - lse_i) + 2^(z_ij - lse_j) of a chunk of rows, for D that the fused gradient does not hold in
// registers. 2NMD FLOPs; product.cu multiplies them. The next chunk overwrites this one, so the whole matrix is never
// stored.
#include "similarity/weights.h"

namespace infonce {

#define INFONCE_BUILD(KERNEL, ...)                                         \
    INFONCE_KERNEL(KERNEL, ScoresParams) {                                 \
        Weights<list::KERNEL::T, ScoresTile> epilogue(p, work_of_block()); \
        score_tiles<list::KERNEL>(p, epilogue);                            \
    }

INFONCE_TILE(INFONCE_BUILD, weights)

}  // namespace infonce
