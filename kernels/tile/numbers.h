// Loads, stores and conversions of elements whose type is known at run time: for memory-bound kernels, where a uniform
// branch costs nothing.
#pragma once

#include "ptx/convert.h"
#include "ptx/global.h"
#include "ptx/kernel.h"
#include "ptx/shuffle.h"
#include "ptx/types.h"

namespace infonce {

// DTYPE_E4M3 is for tile loops: no function below takes it.
enum DType : uint32_t { DTYPE_F32 = 0, DTYPE_F16 = 1, DTYPE_BF16 = 2, DTYPE_E4M3 = 3 };

INFONCE_DEVICE float load_element(const void* data, uint32_t dtype, uint64_t index) {
    switch (dtype) {
        case DTYPE_F16: return to_float(load_global(static_cast<const f16*>(data) + index));
        case DTYPE_BF16: return to_float(load_global(static_cast<const bf16*>(data) + index));
        default: return load_global(static_cast<const float*>(data) + index);
    }
}

INFONCE_DEVICE void store_element(void* data, uint32_t dtype, uint64_t index, float x) {
    switch (dtype) {
        case DTYPE_F16: store_global(static_cast<f16*>(data) + index, to_f16(x)); break;
        case DTYPE_BF16: store_global(static_cast<bf16*>(data) + index, to_bf16(x)); break;
        default: store_global(static_cast<float*>(data) + index, x);
    }
}

// x after store_element and load_element.
INFONCE_DEVICE float round_element(uint32_t dtype, float x) {
    switch (dtype) {
        case DTYPE_F16: return to_float(to_f16(x));
        case DTYPE_BF16: return to_float(to_bf16(x));
        default: return x;
    }
}

INFONCE_DEVICE uint32_t element_bytes(uint32_t dtype) { return dtype == DTYPE_F32 ? 4 : 2; }

// Whether `data` can be loaded and stored in quads.
INFONCE_DEVICE bool is_quad_aligned(const void* data, uint32_t dtype) { return uint64_t(data) % (4 * element_bytes(dtype)) == 0; }

// A quad: four consecutive elements from `index`, a multiple of four, as memory holds them: 16 bytes of f32, or 8 bytes
// in the first two words. Conversion is a separate step, so that consecutive loads are in flight together.
INFONCE_DEVICE Vector16 load_quad(const void* data, uint32_t dtype, uint64_t index) {
    if (dtype == DTYPE_F32) return load_global(static_cast<const Vector16*>(data) + index / 4);
    const Vector8 words = load_global(static_cast<const Vector8*>(data) + index / 4);
    return {{words.x[0], words.x[1], 0, 0}};
}

// Elements of a warp's quads, one quad a lane.
constexpr uint32_t WARP_ELEMENTS = 32 * 4;

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

// Stores factor · sums(j, side) at column first + 8·j + side, for j < BLOCKS and side 0 and 1, of a row of `columns`
// that starts at `row`. `first` is even. `accumulate`: adds to what is there.
template <int BLOCKS, class Sums>
INFONCE_DEVICE void store_sums(float* row, uint32_t first, uint32_t columns, bool accumulate, float factor, const Sums& sums) {
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
            store_pair(row, first + (batch + j) * 8, columns, fma(sums(batch + j, 0), factor, before[j][0]),
                       fma(sums(batch + j, 1), factor, before[j][1]));
    }
}

// The sum over the warp, the same in every lane.
INFONCE_DEVICE float warp_sum(float x) {
    for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
    return x;
}

}  // namespace infonce
