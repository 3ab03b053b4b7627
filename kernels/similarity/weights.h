// The epilogue that makes softmax weights of logits and stores them: W_ij = 2^(z - lse_i) + 2^(z - lse_j),
// zero where excluded and for the positive, times 2^shift, in the inputs' type.
#pragma once

#include "similarity/store_pairs.h"

namespace infonce {

// `Stores`: how weights get from registers to memory.
template <class T, class Tile, template <class, class> class Stores = PairStores>
struct Weights : AnchorRows<Tile> {
    static constexpr int ROOMS = 1;
    static constexpr bool WALKS = false;
    using Rows = AnchorRows<Tile>;
    using Rows::p, Rows::place, Rows::row, Rows::scale2;
    float shift;
    float row_offset[Tile::ROW_BLOCKS][2];  // shift - lse
    Stores<T, Tile> stores;

    template <class Params>
    INFONCE_DEVICE Weights(const Params& params, Work piece) : Rows(params, piece), stores(params) {
        shift = weight_shift<T>(p.shift);
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half)
                row_offset[i][half] =
                    shift - (Rows::inside(i, half) ? load_global(p.row_lse2 + row[i][half]) : infinity());
    }

    INFONCE_DEVICE void tile(Logits<Tile>& logits, uint32_t first_column, SharedAddress room) {
        Rows::mask(logits, first_column);
        INFONCE_UNROLL
        for (int first = 0; first < Tile::COLUMN_BLOCKS; first += STORED_BLOCKS) {
            if (p.column_lse2)
                weigh<true>(logits, first_column, first);
            else
                weigh<false>(logits, first_column, first);
            stores.store(*this, logits, first_column, first, room);
        }
    }

    // Logits become weights, of STORED_BLOCKS blocks from `first` on. Two exponentials a logit take as long as
    // the products of D = 256.
    template <bool COLUMN_TERM>
    INFONCE_DEVICE void weigh(Logits<Tile>& logits, uint32_t first_column, int first) const {
        constexpr int EACH = COLUMN_TERM ? Tile::POLYNOMIAL_EACH : 0;
        INFONCE_UNROLL
        for (int j = first; j < first + STORED_BLOCKS; ++j) {
            float column_offset[2] = {};
            if (COLUMN_TERM) find_column_offsets(first_column + place.column(j, 0), column_offset);
            INFONCE_UNROLL
            for (int i = 0; i < Tile::ROW_BLOCKS; ++i) {
                INFONCE_UNROLL
                for (int e = 0; e < 4; ++e) {
                    float& z = logits.z[i][j][e];
                    float weight = exp2_shared_out<EACH>(4 * j + e, fma(z, scale2, row_offset[i][e / 2]));
                    if (COLUMN_TERM) weight += exp2_shared_out<EACH>(4 * j + e, fma(z, scale2, column_offset[e % 2]));
                    z = weight;
                }
            }
        }
    }

    // shift - lse of columns c and c + 1, where c is even; −∞ past the last.
    INFONCE_DEVICE void find_column_offsets(uint32_t c, float (&offset)[2]) const {
        Vector8 lse2 = {{float_bits(infinity()), float_bits(infinity())}};
        if (c + 1 < p.candidates.rows)
            lse2 = load_global(reinterpret_cast<const Vector8*>(p.column_lse2 + c));
        else if (c < p.candidates.rows)
            lse2.x[0] = float_bits(load_global(p.column_lse2 + c));
        INFONCE_UNROLL
        for (int side = 0; side < 2; ++side) offset[side] = shift - bits_float(lse2.x[side]);
    }

    INFONCE_DEVICE void write(SharedAddress) { stores.finish(); }
};

}  // namespace infonce
