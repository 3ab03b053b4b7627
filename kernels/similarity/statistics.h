// The epilogue that makes statistics of logits: sums of exponentials of rows, and of columns where
// columns have a loss. One partial sum per row and split, one per column and anchor tile, go to global
// memory; combine_statistics of rows.cu adds them up in index order.
//
// Bounded logits need no maximum: 2^z serves as it is, for the row and for the column.
#pragma once

#include "similarity/anchor_rows.h"
#include "similarity/row_sums.h"

namespace infonce {

template <class Tile>
struct Statistics : AnchorRows<Tile> {
    using Rows = AnchorRows<Tile>;
    using Rows::p, Rows::place, Rows::scale2;
    bool bounded;
    RowSums<Tile> sums;

    INFONCE_DEVICE explicit Statistics(const ScoresParams& params) : Rows(params) {
        bounded = load_global(p.bounded) != 0;
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) sums.of[i][half] = {bounded ? 0.0f : -infinity(), 0.0f};
    }

    INFONCE_DEVICE void tile(Logits<Tile>& logits, uint32_t first_column, SharedAddress room) {
        Rows::mask(logits, first_column);
        if (bounded) {
            Rows::exponentials(logits, sums.of);
            if (p.columns) columns(first_column, room, [&](int j, int side) { return column_of_exponentials(logits, j, side); });
        } else {
            against_maxima(logits);
            if (p.columns) columns(first_column, room, [&](int j, int side) { return column_of_logits(logits, j, side); });
        }
    }

    INFONCE_DEVICE void against_maxima(const Logits<Tile>& logits) {
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i) {
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                float largest = -infinity();
                INFONCE_UNROLL
                for (int j = 0; j < Tile::COLUMN_BLOCKS; ++j)
                    INFONCE_UNROLL
                    for (int side = 0; side < 2; ++side) largest = larger(largest, logits.z[i][j][2 * half + side]);
                const float maximum = largest * scale2;
                ScaledSum tile_sum = {maximum, 0.0f};
                const float offset = finite_offset(maximum);
                INFONCE_UNROLL
                for (int j = 0; j < Tile::COLUMN_BLOCKS; ++j)
                    INFONCE_UNROLL
                    for (int side = 0; side < 2; ++side)
                        tile_sum.sum += exp2_shared_out<Tile::POLYNOMIAL_EACH>(
                            2 * j + side, fma(logits.z[i][j][2 * half + side], scale2, -offset));
                sums.of[i][half] = combine(sums.of[i][half], tile_sum);
            }
        }
    }

    // One column of the warp, a sum over the thread's rows and the eight threads that hold the others.
    INFONCE_DEVICE ScaledSum column_of_exponentials(const Logits<Tile>& logits, int j, int side) const {
        float sum = 0.0f;
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i) sum += logits.z[i][j][side] + logits.z[i][j][2 + side];
        return {0.0f, column_sum(sum)};
    }

    // The maximum first, so that the sums are sums.
    INFONCE_DEVICE ScaledSum column_of_logits(const Logits<Tile>& logits, int j, int side) const {
        float maximum = -infinity(), sum = 0.0f;
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) maximum = larger(maximum, logits.z[i][j][2 * half + side]);
        maximum *= scale2;
        INFONCE_UNROLL
        for (int mask = 4; mask <= 16; mask *= 2) maximum = larger(maximum, shuffle_xor(maximum, mask));
        const float offset = finite_offset(maximum);
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) sum += exp2_fast(fma(logits.z[i][j][2 * half + side], scale2, -offset));
        return {maximum, column_sum(sum)};
    }

    INFONCE_DEVICE static float column_sum(float sum) {
        INFONCE_UNROLL
        for (int mask = 4; mask <= 16; mask *= 2) sum += shuffle_xor(sum, mask);
        return sum;
    }

    // `exchange`: room for a partial sum of every column from every warp row. `column(j, side)`: the
    // warp's.
    template <class Column>
    INFONCE_DEVICE void columns(uint32_t first_column, SharedAddress exchange, const Column& column) const {
        // Other warps may still multiply what lies there.
        Tile::meet();
        INFONCE_UNROLL
        for (int j = 0; j < Tile::COLUMN_BLOCKS; ++j) {
            INFONCE_UNROLL
            for (int side = 0; side < 2; ++side) {
                const ScaledSum sum = column(j, side);
                if (place.lane < 4)
                    store_shared(exchange + (place.warp_row * Tile::COLUMNS + place.column(j, side)) *
                                                int(sizeof(ScaledSum)),
                                 sum);
            }
        }
        Tile::meet();
        const uint32_t c = thread_index();
        if (c < Tile::COLUMNS && first_column + c < p.candidates.rows) {
            ScaledSum sum = empty_sum();
            INFONCE_UNROLL
            for (int warp_row = 0; warp_row < Tile::WARPS_DOWN; ++warp_row)
                sum = combine(sum, load_shared<ScaledSum>(exchange + (warp_row * Tile::COLUMNS + int(c)) *
                                                                         int(sizeof(ScaledSum))));
            store_global(p.columns + uint64_t(block_index().x) * p.candidates.rows + first_column + c, sum);
        }
        // The next tile's first barrier lies before anything is written here again.
    }

    INFONCE_DEVICE void write(SharedAddress exchange) { sums.write(p, place, exchange); }
};

}  // namespace infonce
