// The epilogue that makes softmax weights of logits and stores them: W_ij = 2^(z - lse_i) + 2^(z - lse_j),
// the positive's -σ, zero where excluded, times 2^shift, in the inputs' type.
#pragma once

#include "similarity/anchor_rows.h"

namespace infonce {

INFONCE_DEVICE void store_numbers(bf16* to, float first, float second) {
    store_global(reinterpret_cast<uint32_t*>(to), pack_bf16(first, second));
}
INFONCE_DEVICE void store_numbers(f16* to, float first, float second) {
    store_global(reinterpret_cast<uint32_t*>(to), pack_f16(first, second));
}
INFONCE_DEVICE void store_numbers(float* to, float first, float second) {
    store_global(reinterpret_cast<Vector8*>(to), Vector8{{float_bits(first), float_bits(second)}});
}
INFONCE_DEVICE void store_numbers(tf32* to, float first, float second) {
    store_numbers(reinterpret_cast<float*>(to), first, second);
}

INFONCE_DEVICE void store_number(bf16* to, float x) { store_global(to, to_bf16(x)); }
INFONCE_DEVICE void store_number(f16* to, float x) { store_global(to, to_f16(x)); }
INFONCE_DEVICE void store_number(float* to, float x) { store_global(to, x); }
INFONCE_DEVICE void store_number(tf32* to, float x) { store_global(to, tf32{float_bits(x)}); }

template <class T>
INFONCE_DEVICE T* stored_number(const ScoresParams& p, uint32_t row, uint32_t c) {
    return static_cast<T*>(p.weights) + uint64_t(row) * p.weights_stride + c;
}

template <class T, class Tile>
struct Weights : AnchorRows<Tile> {
    using Rows = AnchorRows<Tile>;
    using Rows::excluded, Rows::p, Rows::place, Rows::positive, Rows::row, Rows::scale2;
    WeightShift shift;
    float row_offset[Tile::ROW_BLOCKS][2];  // shift - lse

    INFONCE_DEVICE explicit Weights(const ScoresParams& params) : Rows(params) {
        shift = weight_shift<T>(p.shift);
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half)
                row_offset[i][half] =
                    shift.shift - (Rows::inside(i, half) ? load_global(p.row_lse2 + row[i][half]) : infinity());
    }

    INFONCE_DEVICE void tile(Logits<Tile>& logits, uint32_t first_column, SharedAddress) {
        if (p.column_lse2)
            store<true>(logits, first_column);
        else
            store<false>(logits, first_column);
        correct(first_column);
    }

    template <bool COLUMN_TERM>
    INFONCE_DEVICE void store(const Logits<Tile>& logits, uint32_t first_column) const {
        INFONCE_UNROLL
        for (int j = 0; j < Tile::COLUMN_BLOCKS; ++j) {
            const uint32_t c = first_column + place.column(j, 0);
            float column_offset[2] = {};
            if (COLUMN_TERM) {
                INFONCE_UNROLL
                for (int side = 0; side < 2; ++side)
                    column_offset[side] =
                        shift.shift - (c + side < p.candidates.rows ? load_global(p.column_lse2 + c + side) : infinity());
            }
            INFONCE_UNROLL
            for (int i = 0; i < Tile::ROW_BLOCKS; ++i) {
                INFONCE_UNROLL
                for (int half = 0; half < 2; ++half) {
                    float pair[2];
                    INFONCE_UNROLL
                    for (int side = 0; side < 2; ++side) {
                        const float z = logits.z[i][j][2 * half + side];
                        pair[side] = exp2_fast(fma(z, scale2, row_offset[i][half]));
                        if (COLUMN_TERM) pair[side] += exp2_fast(fma(z, scale2, column_offset[side]));
                    }
                    if (Rows::inside(i, half) && c < p.weights_stride)
                        store_numbers(stored_number<T>(p, row[i][half], c), pair[0], pair[1]);
                }
            }
        }
    }

    // Over what was stored: the positive's weight, and those that are none. A thread corrects its own.
    INFONCE_DEVICE void correct(uint32_t first_column) const {
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i) {
            for (int half = 0; half < 2; ++half) {
                const uint32_t r = row[i][half];
                if (!Rows::inside(i, half)) continue;
                if (const uint32_t c = positive[i][half]; is_own(c, first_column)) {
                    float sigma = load_global(p.row_sigma + r);
                    if (p.column_sigma) sigma += load_global(p.column_sigma + c);
                    store_number(stored_number<T>(p, r, c), -shift.factor * sigma);
                }
                if (const uint32_t c = excluded[i][half]; is_own(c, first_column)) store_number(stored_number<T>(p, r, c), 0.0f);
                // Past the last candidate; the first number of a row's padding is 15 from its end at most.
                if (first_column + Tile::COLUMNS <= p.candidates.rows) continue;
                for (uint32_t c = p.candidates.rows; c < p.weights_stride; ++c)
                    if (is_own(c, first_column)) store_number(stored_number<T>(p, r, c), 0.0f);
            }
        }
    }

    // Whether the thread holds a number of column c, of the rows that it has.
    INFONCE_DEVICE bool is_own(uint32_t c, uint32_t first_column) const {
        const uint32_t in_tile = c - first_column;
        return in_tile < uint32_t(Tile::COLUMNS) && int(in_tile) / Tile::WARP_COLUMNS == place.warp_column &&
               int(in_tile % 8 / 2) == place.lane % 4;
    }

    INFONCE_DEVICE void write(SharedAddress) {}
};

}  // namespace infonce
