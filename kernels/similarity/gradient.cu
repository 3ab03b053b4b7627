// Fused gradients Σ_j W_ij k_j (gradient.h): one kernel a type, dimension and kind of softmax.
#include "similarity/accumulate.h"

namespace infonce {

// Name, type, slabs of D, warps, streamed rows, stages, blocks an SM. D is rounded up to whole slabs: 64 elements of 16
// bits, 32 of f32.
#define INFONCE_GRADIENT(NAME, T, SLABS, WARPS, COLUMNS, STAGES, RESIDENT)                                    \
    INFONCE_KERNEL(gradient_online_##NAME, GradientParams, WARPS * 32, RESIDENT) {                            \
        Gradient<T, SLABS, WARPS, COLUMNS, STAGES, Softmax::ONLINE>(p).run();                                 \
    }                                                                                                         \
    INFONCE_KERNEL(gradient_known_##NAME, GradientParams, WARPS * 32, RESIDENT) {                             \
        Gradient<T, SLABS, WARPS, COLUMNS, STAGES, Softmax::KNOWN>(p).run();                                  \
    }

INFONCE_GRADIENT(bf16_64, bf16, 1, 8, 64, 3, 1)
INFONCE_GRADIENT(bf16_128, bf16, 2, 8, 64, 3, 1)
INFONCE_GRADIENT(bf16_256, bf16, 4, 8, 32, 2, 1)
INFONCE_GRADIENT(f16_64, f16, 1, 8, 64, 3, 1)
INFONCE_GRADIENT(f16_128, f16, 2, 8, 64, 3, 1)
INFONCE_GRADIENT(f16_256, f16, 4, 8, 32, 2, 1)
INFONCE_GRADIENT(f32_64, float, 2, 4, 32, 3, 1)
INFONCE_GRADIENT(f32_128, float, 4, 4, 32, 3, 1)
INFONCE_GRADIENT(f32_256, float, 8, 4, 16, 2, 1)
INFONCE_GRADIENT(tf32_64, tf32, 2, 4, 32, 3, 1)
INFONCE_GRADIENT(tf32_128, tf32, 4, 4, 32, 3, 1)
INFONCE_GRADIENT(tf32_256, tf32, 8, 4, 16, 2, 1)

}  // namespace infonce
