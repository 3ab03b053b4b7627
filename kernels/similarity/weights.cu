// W_ij = 2^(z_ij - o_i) + 2^(z_ij - o_j), the first term or both, of a chunk of rows, for D above the fused gradients'.
// 2NMD FLOPs. product.cu multiplies W; the next chunk overwrites it, so the whole matrix is never stored.
#include "similarity/weights.h"

namespace infonce {

#define INFONCE_BUILD(KERNEL, ...)                                         \
    INFONCE_KERNEL(KERNEL, ScoresParams) {                                 \
        Weights<list::KERNEL::T, ScoresTile> epilogue(p, work_of_block()); \
        score_tiles<list::KERNEL>(p, epilogue);                            \
    }

INFONCE_TILE(INFONCE_BUILD, weights)

}  // namespace infonce
