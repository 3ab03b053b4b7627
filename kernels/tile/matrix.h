// A row-major matrix in global memory, as every kernel takes it.
#pragma once

#include "tile/numbers.h"

namespace infonce {

struct Matrix {
    void* data;          // null: there is no matrix
    float* scales;       // e4m3: row i is scales[i] times its codes; whole tiles of scales can be read. Else null
    uint64_t stride;     // bytes from row to row
    uint32_t rows;
    uint32_t row_bytes;  // tile loops: a multiple of 16, as are `data` and `stride`
    uint32_t dtype;      // DType

    INFONCE_DEVICE char* row(uint64_t i) const { return static_cast<char*>(data) + i * stride; }
    INFONCE_DEVICE float load(uint64_t of_row, uint32_t column) const { return load_number(row(of_row), dtype, column); }
    INFONCE_DEVICE void store(uint64_t of_row, uint32_t column, float x) const { store_number(row(of_row), dtype, column, x); }
    INFONCE_DEVICE float rounded(float x) const { return round_number(dtype, x); }
    // Whether rows of `columns` elements can be read four at a time.
    INFONCE_DEVICE bool in_quads(uint32_t columns) const {
        return is_quad_aligned(data, dtype) && stride % quad_bytes(dtype) == 0 && columns % 4 == 0;
    }
    // `quads`: in_quads(columns).
    INFONCE_DEVICE void load_four(float (&x)[4], uint64_t of_row, uint32_t column, uint32_t columns, bool quads) const {
        infonce::load_four(x, row(of_row), dtype, column, columns, quads);
    }
    INFONCE_DEVICE void store_four(const float (&x)[4], uint64_t of_row, uint32_t column, uint32_t columns, bool quads) const {
        if (quads) return store_quad(of_row, column, x);
        INFONCE_UNROLL
        for (uint32_t i = 0; i < 4; ++i)
            if (column + i < columns) store(of_row, column + i, x[i]);
    }
    INFONCE_DEVICE Vector16 load_quad(uint64_t of_row, uint32_t column) const {
        return infonce::load_quad(row(of_row), dtype, column);
    }
    INFONCE_DEVICE void store_quad(uint64_t of_row, uint32_t column, const float (&x)[4]) const {
        infonce::store_quad(row(of_row), dtype, column, x);
    }
};

}  // namespace infonce
