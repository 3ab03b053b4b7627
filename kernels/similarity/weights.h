// The epilogue that stores W_ij = (2^(z_ij - o_i) + 2^(z_ij - o_j)) · 2^shift in the inputs' type, 0 for exclusions and
// the positive. Without column offsets it has the first term only. Two terms may share 2^z_ij (share_exponential).
#pragma once

#include "similarity/store_pairs.h"

namespace infonce {

// `Stores`: how weights get from registers to memory.
template <class T, class Tile, template <class, class> class Stores = PairStores>
struct Weights : AnchorRows<Tile> {
    static constexpr int BUFFERS = 1;
    static constexpr bool COLUMN_TERMS = true, WALKS = false;  // needs column_term; takes all candidates
    using Rows = AnchorRows<Tile>;
    using Rows::p, Rows::place, Rows::row, Rows::scale2;
    float shift;
    bool shares;
    float row_term[Tile::ROW_BLOCKS][2];  // weight_term
    SharedAddress column_terms;           // weight_term of the tile's columns, if BRINGS_COLUMN_TERMS
    Stores<T, Tile> stores;

    template <class Params>
    INFONCE_DEVICE Weights(const Params& params, Work work_tile) : Rows(params, work_tile), stores(params) {
        shift = weight_shift<T>(p.shift);
        shares = p.far && share_exponential(p.far, shift);
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half)
                row_term[i][half] =
                    weight_term(shift, Rows::inside(i, half) ? load_global(p.row_offset2 + row[i][half]) : infinity(), shares);
    }

    INFONCE_DEVICE void tile(Logits<Tile>& logits, uint32_t first_column, SharedAddress buffer) {
        Rows::mask(logits, first_column);
        INFONCE_UNROLL
        for (int first = 0; first < Tile::COLUMN_BLOCKS; first += STORED_BLOCKS) {
            if (shares)
                weigh<true, true>(logits, first_column, first);
            else if (p.column_offset2)
                weigh<true, false>(logits, first_column, first);
            else
                weigh<false, false>(logits, first_column, first);
            stores.store(*this, logits, first_column, first, buffer);
        }
    }

    // Logits become weights, for STORED_BLOCKS blocks from `first` on.
    template <bool COLUMN_TERM, bool SHARES>
    INFONCE_DEVICE void weigh(Logits<Tile>& logits, uint32_t first_column, int first) const {
        constexpr int EACH = COLUMN_TERM ? Tile::POLYNOMIAL_EACH : 0;
        INFONCE_UNROLL
        for (int j = first; j < first + STORED_BLOCKS; ++j) {
            Pair column = {};
            if (COLUMN_TERM) column = terms_of_columns(first_column, j);
            INFONCE_UNROLL
            for (int i = 0; i < Tile::ROW_BLOCKS; ++i) {
                INFONCE_UNROLL
                for (int e = 0; e < 4; ++e) {
                    float& z = logits.z[i][j][e];
                    const auto exponential = [&](float x) { return exp2_shared_out<EACH>(4 * j + e, x); };
                    if (SHARES) {
                        z = exponential(z * scale2) * (row_term[i][e / 2] + column.x[e % 2]);
                        continue;
                    }
                    float weight = exponential(fma(z, scale2, row_term[i][e / 2]));
                    if (COLUMN_TERM) weight += exponential(fma(z, scale2, column.x[e % 2]));
                    z = weight;
                }
            }
        }
    }

    // weight_term of the thread's two columns of a block.
    INFONCE_DEVICE Pair terms_of_columns(uint32_t first_column, int block) const {
        if constexpr (Tile::BRINGS_COLUMN_TERMS) {
            return load_shared<Pair>(column_terms + 4 * place.column(block, 0));
        } else {
            const uint32_t c = first_column + place.column(block, 0);
            return {{column_term(p, c, shift, shares), column_term(p, c + 1, shift, shares)}};
        }
    }

    INFONCE_DEVICE void write(SharedAddress) { stores.finish(); }
};

}  // namespace infonce
