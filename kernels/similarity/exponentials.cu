// E_ij = 2^(z_ij - o) of a chunk of rows, and Σ_j E_ij, in one pass, for one-way gradients with D > 256. 2NMD FLOPs;
// 6NMD with the products for dq and dk (product.cu).
#include "similarity/exponentials.h"

namespace infonce {

#define INFONCE_BUILD(KERNEL, ...)                                              \
    INFONCE_KERNEL(KERNEL, ScoresParams) {                                      \
        if (is_needless(p)) return;                                             \
        Exponentials<list::KERNEL::T, ScoresTile> epilogue(p, work_of_block()); \
        score_tiles<list::KERNEL>(p, epilogue);                                 \
        epilogue.write(shared_base());                                          \
    }

INFONCE_TILE(INFONCE_BUILD, exponentials)

}  // namespace infonce
