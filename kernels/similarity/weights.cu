// Softmax weights of a chunk of rows, for dimensions that the fused gradient does not hold in
// registers. 2NMD FLOPs; product.cu multiplies them. The chunk is overwritten by the next one: the
// whole matrix is never stored.
#include "similarity/weights.h"

namespace infonce {

#define INFONCE_BUILD(KERNEL, ...)                                         \
    INFONCE_KERNEL(KERNEL, ScoresParams) {                                 \
        Weights<list::KERNEL::T, ScoresTile> epilogue(p, work_of_block()); \
        score_tiles<list::KERNEL>(p, epilogue);                            \
    }

INFONCE_WEIGHTS(INFONCE_BUILD)

}  // namespace infonce
