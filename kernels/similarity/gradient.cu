// The gradient kernels: one per type, dimension and kind of softmax. See gradient.h.
#include "similarity/accumulate.h"

namespace infonce {

#define INFONCE_ONLINE(KERNEL, ...) \
    INFONCE_KERNEL(KERNEL, GradientParams) { Gradient<list::KERNEL, Softmax::ONLINE>(p).run(); }
#define INFONCE_KNOWN(KERNEL, ...) \
    INFONCE_KERNEL(KERNEL, GradientParams) { Gradient<list::KERNEL, Softmax::KNOWN>(p).run(); }

INFONCE_GRADIENT_ONLINE(INFONCE_ONLINE)
INFONCE_GRADIENT_KNOWN(INFONCE_KNOWN)

}  // namespace infonce
