// A row-major matrix in global memory: element (r, c) is at byte data + r·stride + c·(bytes of an element).
#pragma once

#include "tile/numbers.h"

namespace infonce {

struct Matrix {
    void* data;          // null: there is no matrix
    float* scales;       // e4m3: row i is scales[i]·codes; as long as all tiles' rows. Other types: null
    uint64_t stride;     // bytes from row to row
    uint32_t rows;
    uint32_t row_bytes;  // tile loops: a multiple of 16, as are `data` and `stride`
    uint32_t dtype;      // DType

    // Addresses of a byte and of an element of a row; an element as f32.
    INFONCE_DEVICE char* byte_at(uint64_t row, uint64_t byte) const { return static_cast<char*>(data) + (row * stride + byte); }
    INFONCE_DEVICE char* at(uint64_t row, uint32_t column) const { return byte_at(row, column * element_bytes(dtype)); }
    INFONCE_DEVICE float load(uint64_t row, uint32_t column) const { return load_element(at(row, column), dtype, 0); }
    INFONCE_DEVICE void store(uint64_t row, uint32_t column, float x) const { store_element(at(row, column), dtype, 0, x); }
    INFONCE_DEVICE float rounded(float x) const { return round_element(dtype, x); }
    // Whether rows of `columns` elements can be read in quads of four elements (numbers.h).
    INFONCE_DEVICE bool in_quads(uint32_t columns) const {
        return is_quad_aligned(data, dtype) && stride % (4 * element_bytes(dtype)) == 0 && columns % 4 == 0;
    }
    // Elements `column` to `column` + 3 of a row of `columns`, zero past the last. `quads`: in_quads(columns).
    INFONCE_DEVICE void load_four(float (&x)[4], uint64_t row, uint32_t column, uint32_t columns, bool quads) const {
        if (quads) return widen_quad(load_quad(row, column), dtype, x);
        INFONCE_UNROLL
        for (uint32_t i = 0; i < 4; ++i) x[i] = column + i < columns ? load(row, column + i) : 0.0f;
    }
    INFONCE_DEVICE void store_four(const float (&x)[4], uint64_t row, uint32_t column, uint32_t columns, bool quads) const {
        if (quads) return store_quad(row, column, x);
        INFONCE_UNROLL
        for (uint32_t i = 0; i < 4; ++i)
            if (column + i < columns) store(row, column + i, x[i]);
    }
    INFONCE_DEVICE Vector16 load_quad(uint64_t row, uint32_t column) const {
        return infonce::load_quad(at(row, column), dtype, 0);
    }
    INFONCE_DEVICE void store_quad(uint64_t row, uint32_t column, const float (&x)[4]) const {
        infonce::store_quad(at(row, column), dtype, 0, x);
    }
};

}  // namespace infonce
