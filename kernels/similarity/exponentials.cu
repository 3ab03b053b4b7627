// E_ij = 2^(z_ij - o_i) of a chunk of rows and Σ_j E_ij in one pass, for one-way gradients with D > 256: 2NMD FLOPs,
// 6NMD with the two products that follow.
#include "similarity/exponentials.h"

namespace infonce {

#define INFONCE_EXPONENTIALS(NAME, T)                                           \
    INFONCE_KERNEL(exponentials_##NAME, ScoresParams, ScoresTile::THREADS, 1) { \
        if (is_needless(p)) return;                                             \
        Exponentials<T, ScoresTile> epilogue(p, work_of_block());               \
        score_tiles<T>(p, epilogue);                                            \
        epilogue.write(shared_base());                                          \
    }

INFONCE_EXPONENTIALS(bf16, bf16)
INFONCE_EXPONENTIALS(f16, f16)
INFONCE_EXPONENTIALS(f32, float)
INFONCE_EXPONENTIALS(tf32, tf32)

}  // namespace infonce
