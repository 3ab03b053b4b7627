// The epilogue of one-way gradients that need no statistics before: stores E_ij = 2^(z_ij - o_i), zero where
// excluded and for the positive, and its row sums, which become the statistics. What E has too much, the
// factor 2^(o_i - lse_i) of its row, fold_rows of rows.cu puts into what E is multiplied by.
//
// o_i = 0 where logits are bounded; elsewhere the negatives' log-sum-exp, which a pass before has found.
#pragma once

#include "similarity/row_sums.h"
#include "similarity/weights.h"

namespace infonce {

template <class T, class Tile>
struct Exponentials : AnchorRows<Tile> {
    using Rows = AnchorRows<Tile>;
    using Rows::p, Rows::place, Rows::row;
    RowSums<Tile> sums;

    INFONCE_DEVICE explicit Exponentials(const ScoresParams& params) : Rows(params) {
        const bool bounded = load_global(p.bounded) != 0;
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                float offset = 0.0f;
                if (!bounded && Rows::inside(i, half))
                    offset = finite_offset(load_global(p.negatives_lse + row[i][half]) * LOG2_E);
                sums.of[i][half] = {offset, 0.0f};
            }
    }

    INFONCE_DEVICE void tile(Logits<Tile>& logits, uint32_t first_column, SharedAddress) {
        Rows::mask(logits, first_column);
        Rows::exponentials(logits, sums.of);
        INFONCE_UNROLL
        for (int j = 0; j < Tile::COLUMN_BLOCKS; ++j) {
            const uint32_t c = first_column + place.column(j, 0);
            INFONCE_UNROLL
            for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
                INFONCE_UNROLL
                for (int half = 0; half < 2; ++half)
                    if (Rows::inside(i, half) && c < p.weights_stride)
                        store_numbers(stored_number<T>(p, row[i][half], c), logits.z[i][j][2 * half], logits.z[i][j][2 * half + 1]);
        }
    }

    INFONCE_DEVICE void write(SharedAddress exchange) { sums.write(p, place, exchange); }
};

}  // namespace infonce
