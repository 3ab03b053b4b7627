// The unit row of any row, by a warp that reads the row three times.
#pragma once

#include "ptx/kernel.h"
#include "ptx/math.h"
#include "ptx/shuffle.h"
#include "tile/numbers.h"

namespace infonce {

// store(d, y_d) for every element of y = x / max(‖x‖, ε), x_d = load(d). Returns ‖x‖, the same in every lane. A lane
// loads each of its elements for the last time before it stores that element.
template <class Load, class Store>
INFONCE_DEVICE float store_unit_row(uint32_t dim, uint32_t lane, float epsilon, const Load& load, const Store& store) {
    // Elements are divided by the largest before they are squared, so nothing overflows.
    float largest = 0.0f, nans = 0.0f;
    for (uint32_t d = lane; d < dim; d += 32) {
        const float x = absolute(load(d));
        largest = larger(largest, x);
        if (x != x) nans = 1.0f;
    }
    for (int mask = 16; mask > 0; mask /= 2) largest = larger(largest, shuffle_xor(largest, mask));
    if (warp_sum(nans) > 0.0f) largest = quiet_nan();
    // The same in every lane, so the branch is uniform.
    float of_scaled = 1.0f;
    if (largest > 0.0f && largest < infinity()) {
        float squares = 0.0f;
        for (uint32_t d = lane; d < dim; d += 32) {
            const float x = load(d) / largest;
            squares = fma(x, x, squares);
        }
        of_scaled = sqrt_exact(warp_sum(squares));
    }
    const float norm = largest * of_scaled;
    // A NaN norm is not replaced by ε. y is divided by the largest element first, so it is not 0 if the norm overflows.
    const bool flat = norm < epsilon;
    const float divisor = flat ? epsilon : largest, factor = flat ? 1.0f : 1.0f / of_scaled;
    for (uint32_t d = lane; d < dim; d += 32) store(d, load(d) / divisor * factor);
    return norm;
}

}  // namespace infonce
