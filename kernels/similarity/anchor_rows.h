// A thread's rows in the epilogues of statistics, exponentials and weights: z_ij becomes -∞ for positives and
// exclusions, and 2^(z_ij - m) is added to the row's sum.
#pragma once

#include "similarity/scores.h"

namespace infonce {

template <class Tile>
struct AnchorRows {
    const ScoresParams& p;
    const Work work;
    const Place<Tile> place;
    float scale2;
    uint32_t row[Tile::ROW_BLOCKS][2];  // among the chunk's rows
    uint32_t positive[Tile::ROW_BLOCKS][2], excluded[Tile::ROW_BLOCKS][2];

    INFONCE_DEVICE AnchorRows(const ScoresParams& params, Work work_tile) : p(params), work(work_tile) {
        scale2 = p.contrast.scale2();
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i) {
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                row[i][half] = work.tile * Tile::ROWS + place.row(i, half);
                const uint32_t anchor = p.first_anchor + row[i][half];
                positive[i][half] = inside(i, half) ? p.contrast.positive(anchor) : 0xffffffffu;
                excluded[i][half] = inside(i, half) ? p.contrast.excluded(anchor) : 0xffffffffu;
            }
        }
    }

    INFONCE_DEVICE bool inside(int i, int half) const { return row[i][half] < p.anchors.rows; }

    // Whether column c lies in the tile.
    INFONCE_DEVICE static bool holds(uint32_t c, uint32_t first_column) {
        return c - first_column < uint32_t(Tile::COLUMNS);
    }
    // Whether the tile may hold a positive, an excluded candidate or padding of this thread's rows. Few tiles do.
    INFONCE_DEVICE bool has_exceptions(uint32_t first_column) const {
        bool any = first_column + Tile::COLUMNS > p.candidates.rows;
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half)
                any |= !inside(i, half) || holds(positive[i][half], first_column) || holds(excluded[i][half], first_column);
        return any;
    }

    // Sets to −∞: padding candidates, positives, exclusions, and padding rows, which must not enter the column sums.
    INFONCE_DEVICE void mask(Logits<Tile>& logits, uint32_t first_column) const {
        if (!has_exceptions(first_column)) return;
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int j = 0; j < Tile::COLUMN_BLOCKS; ++j)
                INFONCE_UNROLL
                for (int e = 0; e < 4; ++e) {
                    const uint32_t c = first_column + place.column(j, e % 2);
                    if (c >= p.candidates.rows || !inside(i, e / 2) || c == positive[i][e / 2] ||
                        c == excluded[i][e / 2])
                        logits.z[i][j][e] = -infinity();
                }
    }

    // Dot products become 2^(z - m), with the fixed offset m = sums[..].maximum, and are added to sums[..].sum.
    INFONCE_DEVICE void exponentials(Logits<Tile>& logits, ScaledSum (&sums)[Tile::ROW_BLOCKS][2]) const {
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i) {
            float tile_sum[2] = {};
            INFONCE_UNROLL
            for (int j = 0; j < Tile::COLUMN_BLOCKS; ++j)
                INFONCE_UNROLL
                for (int e = 0; e < 4; ++e) {
                    float& z = logits.z[i][j][e];
                    z = exp2_shared_out<Tile::POLYNOMIAL_EACH>(4 * j + e, fma(z, scale2, -sums[i][e / 2].maximum));
                    tile_sum[e / 2] += z;
                }
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) sums[i][half].sum += tile_sum[half];
        }
    }
};

}  // namespace infonce
