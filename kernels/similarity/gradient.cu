// Fused gradients Σ_j W_ij y_j (gradient.h): a kernel for each type, class of D, and softmax (ONLINE, KNOWN).
#include "similarity/accumulate.h"

namespace infonce {

#define INFONCE_ONLINE(KERNEL, ...) \
    INFONCE_KERNEL(KERNEL, GradientParams) { Gradient<list::KERNEL, Softmax::ONLINE>(p).run(); }
#define INFONCE_KNOWN(KERNEL, ...) \
    INFONCE_KERNEL(KERNEL, GradientParams) { Gradient<list::KERNEL, Softmax::KNOWN>(p).run(); }

INFONCE_GRADIENT(INFONCE_ONLINE, gradient_online)
INFONCE_GRADIENT(INFONCE_KNOWN, gradient_known)

}  // namespace infonce
