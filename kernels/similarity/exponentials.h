// The epilogue that stores E_ij = 2^(z_ij - o), 0 for exclusions and the positive, and Σ_j E_ij. The offset o is known
// beforehand: the bound's offset where the bound holds (bound_logits), otherwise lse⁻_i of an earlier pass, less
// ROW_SHIFT for f16. combine_statistics gets lse⁻_i from the row sums, and the row's own offset o_i from its rule.
// fold_rows gets the factor 2^(o - o_i), by which E_ij becomes W_ij (both in rows.cu).
#pragma once

#include "similarity/row_sums.h"
#include "similarity/store_pairs.h"

namespace infonce {

// `Stores`: how exponentials get from registers to memory.
template <class T, class Tile, template <class, class> class Stores = PairStores>
struct Exponentials : AnchorRows<Tile> {
    static constexpr int BUFFERS = 1;
    static constexpr bool COLUMN_TERMS = false, WALKS = false;
    using Rows = AnchorRows<Tile>;
    using Rows::p, Rows::place, Rows::row, Rows::work;
    RowSums<Tile> sums;
    Stores<T, Tile> stores;

    template <class Params>
    INFONCE_DEVICE Exponentials(const Params& params, Work work_tile) : Rows(params, work_tile), stores(params) {
        const LogitBound bound = p.bound ? load_global(p.bound) : LogitBound{};
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                float offset = bound.offset;
                if (!bound.holds)
                    offset = Rows::inside(i, half) ? known_offset(load_global(p.negatives_lse + row[i][half])) : 0.0f;
                sums.of[i][half] = {offset, 0.0f};
            }
    }

    INFONCE_DEVICE static float known_offset(float negatives_lse) {
        return finite_offset(negatives_lse * LOG2_E) - (Element<T>::SHIFTED ? ROW_SHIFT : 0.0f);
    }

    INFONCE_DEVICE void tile(Logits<Tile>& logits, uint32_t first_column, SharedAddress buffer) {
        Rows::mask(logits, first_column);
        Rows::exponentials(logits, sums.of);
        INFONCE_UNROLL
        for (int first = 0; first < Tile::COLUMN_BLOCKS; first += STORED_BLOCKS)
            stores.store(*this, logits, first_column, first, buffer);
    }

    INFONCE_DEVICE void write(SharedAddress exchange) {
        stores.finish();
        sums.write(p, work, place, exchange);
    }
};

}  // namespace infonce
