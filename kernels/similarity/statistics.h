// The epilogue of statistics: m_i = max_j z_ij and S_i = Σ_j 2^(z_ij - m_i) of rows; the same of columns where columns
// have a loss (CLIP) or stand for rows (NT-Xent's walk). It writes one partial sum a row and split, and one a column
// and row tile; combine_statistics (rows.cu) adds them up in index order.
//
// Bounded logits need no maximum: with m = 0, 2^z serves row and column.
#pragma once

#include "similarity/anchor_rows.h"
#include "similarity/column_sums.h"
#include "similarity/row_sums.h"

namespace infonce {

template <class Tile>
struct Statistics : AnchorRows<Tile> {
    static constexpr int BUFFERS = 2;  // HopperTile: for column sums of two tiles
    static constexpr bool COLUMN_TERMS = false, WALKS = true;  // needs no column_term; TilesOfWork may walk
    using Rows = AnchorRows<Tile>;
    using Tiles = TilesOfWork<Tile, WALKS>;
    using Rows::p, Rows::place, Rows::scale2, Rows::work;
    bool bounded;
    RowSums<Tile> sums;

    INFONCE_DEVICE Statistics(const ScoresParams& params, Work work_tile) : Rows(params, work_tile) {
        bounded = load_global(&p.bound->holds) != 0;
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) sums.of[i][half] = {bounded ? 0.0f : -infinity(), 0.0f};
    }

    INFONCE_DEVICE void tile(Logits<Tile>& logits, uint32_t first_column, SharedAddress buffer) {
        Rows::mask(logits, first_column);
        const uint32_t among = p.summed ? among_summed(first_column) : 0;
        const bool summed = among < p.summed;
        if (bounded) {
            Rows::exponentials(logits, sums.of);
            if (summed) columns(among).template write<true>(logits, first_column, buffer);
        } else {
            against_maxima(logits);
            if (summed) columns(among).template write<false>(logits, first_column, buffer);
        }
    }

    // The tile's step less first_summed; without a walk, its block of rows. The tile has column sums if this is below
    // `summed`; with the row tile's place in its block it is then the index of the partial sum that the tile writes.
    INFONCE_DEVICE uint32_t among_summed(uint32_t first_column) const {
        const uint32_t block = work.tile / Tiles::ROW_TILES, to = first_column / Tiles::COLUMNS;
        const uint32_t step = to < block ? to + Tiles::all_of(p) - block : to - block;
        return same_in_warp(p.steps ? step - p.first_summed : block);
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

    INFONCE_DEVICE ColumnSums<Tile> columns(uint32_t of_block) const {
        return {p, of_block * Tiles::ROW_TILES + work.tile % Tiles::ROW_TILES, place, scale2};
    }

    INFONCE_DEVICE void write(SharedAddress exchange) { sums.write(p, work, place, exchange); }
};

}  // namespace infonce
