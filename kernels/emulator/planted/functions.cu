// Functions of the device code, an element a thread, for tests of their values. Nothing is planted.
#include "ptx/convert.h"
#include "ptx/global.h"
#include "ptx/kernel.h"
#include "tile/softmax.h"

namespace infonce {

struct ConversionParams {
    const float* x;
    uint16_t* codes;
    uint32_t pairs, padding;
};

INFONCE_PLANTED(e4m3_of, ConversionParams, 64) {
    const uint32_t i = block_index().x * 64 + thread_index();
    if (i < p.pairs) store_global(p.codes + i, uint16_t(pack_e4m3(load_global(p.x + 2 * i), load_global(p.x + 2 * i + 1))));
}

struct PolynomialParams {
    const float* x;
    float* y;
    uint32_t count;
};

INFONCE_PLANTED(exp2_polynomial_of, PolynomialParams, 128) {
    const uint32_t i = block_index().x * 128 + thread_index();
    if (i < p.count) store_global(p.y + i, exp2_polynomial(load_global(p.x + i)));
}

}  // namespace infonce
