// exp2_polynomial of a vector, for a test of its accuracy. Nothing is planted.
#include "ptx/global.h"
#include "ptx/kernel.h"
#include "tile/softmax.h"

namespace infonce {

struct PolynomialParams {
    const float* x;
    float* y;
};

INFONCE_PLANTED(exp2_polynomial_of, PolynomialParams, 128) {
    const uint32_t i = block_index().x * 128 + thread_index();
    store_global(p.y + i, exp2_polynomial(load_global(p.x + i)));
}

}  // namespace infonce
