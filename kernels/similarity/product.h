// The parameters of sums (+)= W · V and Wᵀ · V, the products of stored weights, portable and for sm_90a.
#pragma once

#include "tile/element.h"
#include "tile/matrix.h"

namespace infonce {

struct ProductParams {
    Matrix left;                     // W: rows × summed, or summed × rows when transposed
    Matrix right;                    // V: summed × D
    uint32_t rows, columns, summed;  // columns: D
    uint32_t slabs_per_split;        // slabs of the summed axis
    uint32_t accumulate;             // transposed: add to what `sums` holds; with one split only
    float* sums;                     // splits × rows × columns
    const WeightShift* shift;        // V holds 2^shift times its values, and sums are divided by 2^shift; null: shift 0
};

}  // namespace infonce
