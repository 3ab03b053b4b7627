// Loads and stores of elements whose type is known at run time: for memory-bound kernels, where a uniform branch costs
// nothing.
#pragma once

#include "ptx/convert.h"
#include "ptx/global.h"
#include "ptx/kernel.h"
#include "ptx/shuffle.h"
#include "ptx/types.h"

namespace infonce {

enum DType : uint32_t { DTYPE_F32 = 0, DTYPE_F16 = 1, DTYPE_BF16 = 2 };

INFONCE_DEVICE float load_number(const void* data, uint32_t dtype, uint64_t index) {
    switch (dtype) {
        case DTYPE_F16: return to_float(load_global(static_cast<const f16*>(data) + index));
        case DTYPE_BF16: return to_float(load_global(static_cast<const bf16*>(data) + index));
        default: return load_global(static_cast<const float*>(data) + index);
    }
}

INFONCE_DEVICE void store_number(void* data, uint32_t dtype, uint64_t index, float x) {
    switch (dtype) {
        case DTYPE_F16: store_global(static_cast<f16*>(data) + index, to_f16(x)); break;
        case DTYPE_BF16: store_global(static_cast<bf16*>(data) + index, to_bf16(x)); break;
        default: store_global(static_cast<float*>(data) + index, x);
    }
}

// What store_number and a load make of x.
INFONCE_DEVICE float round_number(uint32_t dtype, float x) {
    switch (dtype) {
        case DTYPE_F16: return to_float(to_f16(x));
        case DTYPE_BF16: return to_float(to_bf16(x));
        default: return x;
    }
}

// Whether four elements at a time can be loaded and stored.
INFONCE_DEVICE bool is_quad_aligned(const void* data, uint32_t dtype) {
    return uint64_t(data) % (dtype == DTYPE_F32 ? 16 : 8) == 0;
}

// Four consecutive elements from `index`, a multiple of four, as memory holds them: 16 bytes of f32, or 8 bytes in the
// first two words. Conversion is a separate step, so that consecutive loads are in flight together.
INFONCE_DEVICE Vector16 load_quad(const void* data, uint32_t dtype, uint64_t index) {
    if (dtype == DTYPE_F32) return load_global(static_cast<const Vector16*>(data) + index / 4);
    const Vector8 words = load_global(static_cast<const Vector8*>(data) + index / 4);
    return {{words.x[0], words.x[1], 0, 0}};
}

INFONCE_DEVICE void widen_quad(const Vector16& quad, uint32_t dtype, float (&x)[4]) {
    switch (dtype) {
        case DTYPE_F16:
            INFONCE_UNROLL
            for (int i = 0; i < 4; ++i) x[i] = to_float(f16{uint16_t(quad.x[i / 2] >> i % 2 * 16)});
            break;
        case DTYPE_BF16:
            INFONCE_UNROLL
            for (int i = 0; i < 4; ++i) x[i] = to_float(bf16{uint16_t(quad.x[i / 2] >> i % 2 * 16)});
            break;
        default:
            INFONCE_UNROLL
            for (int i = 0; i < 4; ++i) x[i] = bits_float(quad.x[i]);
    }
}

INFONCE_DEVICE void store_quad(void* data, uint32_t dtype, uint64_t index, const float (&x)[4]) {
    switch (dtype) {
        case DTYPE_F16:
            store_global(static_cast<Vector8*>(data) + index / 4, Vector8{{pack_f16(x[0], x[1]), pack_f16(x[2], x[3])}});
            break;
        case DTYPE_BF16:
            store_global(static_cast<Vector8*>(data) + index / 4, Vector8{{pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3])}});
            break;
        default:
            store_global(static_cast<Vector16*>(data) + index / 4,
                         Vector16{{float_bits(x[0]), float_bits(x[1]), float_bits(x[2]), float_bits(x[3])}});
    }
}

// A row-major matrix. `stride`: elements from row to row.
struct Matrix {
    void* data;
    uint64_t stride;
    uint32_t dtype;
    INFONCE_DEVICE float load(uint64_t row, uint32_t column) const { return load_number(data, dtype, row * stride + column); }
    INFONCE_DEVICE void store(uint64_t row, uint32_t column, float x) const {
        store_number(data, dtype, row * stride + column, x);
    }
    INFONCE_DEVICE float rounded(float x) const { return round_number(dtype, x); }
    // Whether rows of `columns` elements can be read four at a time.
    INFONCE_DEVICE bool in_quads(uint32_t columns) const {
        return is_quad_aligned(data, dtype) && stride % 4 == 0 && columns % 4 == 0;
    }
    // Elements `column` to `column` + 3 of a row of `columns`, zero past the last. `quads`: in_quads.
    INFONCE_DEVICE void load_four(float (&x)[4], uint64_t row, uint32_t column, uint32_t columns, bool quads) const {
        if (quads) return widen_quad(load_quad(row, column), dtype, x);
        INFONCE_UNROLL
        for (uint32_t i = 0; i < 4; ++i) x[i] = column + i < columns ? load(row, column + i) : 0.0f;
    }
    // Stores such four.
    INFONCE_DEVICE void store_four(const float (&x)[4], uint64_t row, uint32_t column, uint32_t columns, bool quads) const {
        if (quads) return store_quad(row, column, x);
        INFONCE_UNROLL
        for (uint32_t i = 0; i < 4; ++i)
            if (column + i < columns) store(row, column + i, x[i]);
    }
    INFONCE_DEVICE Vector16 load_quad(uint64_t row, uint32_t column) const {
        return infonce::load_quad(data, dtype, row * stride + column);
    }
    INFONCE_DEVICE void store_quad(uint64_t row, uint32_t column, const float (&x)[4]) const {
        infonce::store_quad(data, dtype, row * stride + column, x);
    }
};

// Stores elements `column` (even) and `column` + 1 of a row of `columns` that starts at `row`.
INFONCE_DEVICE void store_pair(float* row, uint32_t column, uint32_t columns, float first, float second) {
    if (columns % 2 == 0) {
        if (column < columns)
            store_global(reinterpret_cast<Vector8*>(row + column), Vector8{{float_bits(first), float_bits(second)}});
        return;
    }
    if (column < columns) store_global(row + column, first);
    if (column + 1 < columns) store_global(row + column + 1, second);
}

// Stores share · sums to a row of `columns` that starts at `row`: for each of BLOCKS blocks of 8 columns, columns
// `first` (even) and `first` + 1 of the block. `accumulate`: adds to what is there.
template <int BLOCKS, class Sums>
INFONCE_DEVICE void store_sums(float* row, uint32_t first, uint32_t columns, bool accumulate, float share, const Sums& sums) {
    constexpr int TOGETHER = BLOCKS < 16 ? BLOCKS : 16;  // loads in flight at a time
    static_assert(BLOCKS % TOGETHER == 0, "whole batches");
    INFONCE_UNROLL
    for (int batch = 0; batch < BLOCKS; batch += TOGETHER) {
        float before[TOGETHER][2] = {};
        if (accumulate && columns % 2 == 0) {
            INFONCE_UNROLL
            for (int j = 0; j < TOGETHER; ++j) {
                const uint32_t column = first + (batch + j) * 8;
                // Past the end, the last pair: no load waits for a branch.
                const uint32_t at = column < columns ? column : columns - 2;
                const Vector8 pair = load_global(reinterpret_cast<const Vector8*>(row + at));
                before[j][0] = bits_float(pair.x[0]);
                before[j][1] = bits_float(pair.x[1]);
            }
        } else if (accumulate) {
            INFONCE_UNROLL
            for (int j = 0; j < TOGETHER; ++j)
                INFONCE_UNROLL
                for (int side = 0; side < 2; ++side) {
                    const uint32_t column = first + (batch + j) * 8 + side;
                    if (column < columns) before[j][side] = load_global(row + column);
                }
        }
        INFONCE_UNROLL
        for (int j = 0; j < TOGETHER; ++j)
            store_pair(row, first + (batch + j) * 8, columns, fma(sums(batch + j, 0), share, before[j][0]),
                       fma(sums(batch + j, 1), share, before[j][1]));
    }
}

// The sum over the warp, the same in every lane.
INFONCE_DEVICE float warp_sum(float x) {
    for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
    return x;
}

}  // namespace infonce
