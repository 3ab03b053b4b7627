// The epilogue that makes statistics of logits: sums of exponentials of rows, and of columns where
// columns have a loss. One partial sum per row and split, one per column and anchor tile, go to global
// memory; combine_statistics of rows.cu adds them up in index order.
#pragma once

#include "similarity/scores.h"

namespace infonce {

template <class Tile>
struct Statistics {
    const ScoresParams& p;
    const Place<Tile> place;
    float scale2;
    uint32_t row[Tile::ROW_BLOCKS][2];  // among the chunk's rows
    uint32_t positive[Tile::ROW_BLOCKS][2], excluded[Tile::ROW_BLOCKS][2];
    ScaledSum sums[Tile::ROW_BLOCKS][2];

    INFONCE_DEVICE explicit Statistics(const ScoresParams& params) : p(params) {
        scale2 = p.contrast.scale2();
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i) {
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                row[i][half] = block_index().x * Tile::ROWS + place.row(i, half);
                const bool inside = row[i][half] < p.anchors.rows;
                const uint32_t anchor = p.first_anchor + row[i][half];
                positive[i][half] = inside ? p.contrast.positive(anchor) : 0xffffffffu;
                excluded[i][half] = inside ? p.contrast.excluded(anchor) : 0xffffffffu;
                sums[i][half] = empty_sum();
            }
        }
    }

    INFONCE_DEVICE void tile(Logits<Tile>& logits, uint32_t first_column, SharedAddress room) {
        mask(logits, first_column);
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
                        tile_sum.sum += exp2_fast(fma(logits.z[i][j][2 * half + side], scale2, -offset));
                sums[i][half] = combine(sums[i][half], tile_sum);
            }
        }
        if (p.columns) columns(logits, first_column, room);
    }

    // What a row does not see becomes −∞: candidates past the last, its positive, what it excludes; and
    // rows past the last, which must not enter the columns' sums. Few tiles hold any of them.
    INFONCE_DEVICE void mask(Logits<Tile>& logits, uint32_t first_column) {
        const auto holds = [&](uint32_t c) { return c - first_column < uint32_t(Tile::COLUMNS); };
        bool any = first_column + Tile::COLUMNS > p.candidates.rows;
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half)
                any |= row[i][half] >= p.anchors.rows || holds(positive[i][half]) || holds(excluded[i][half]);
        if (!any) return;
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int j = 0; j < Tile::COLUMN_BLOCKS; ++j)
                INFONCE_UNROLL
                for (int e = 0; e < 4; ++e) {
                    const uint32_t c = first_column + place.column(j, e % 2);
                    if (c >= p.candidates.rows || row[i][e / 2] >= p.anchors.rows || c == positive[i][e / 2] ||
                        c == excluded[i][e / 2])
                        logits.z[i][j][e] = -infinity();
                }
    }

    // `exchange`: room for a partial sum of every column from every warp row.
    INFONCE_DEVICE void columns(const Logits<Tile>& logits, uint32_t first_column, SharedAddress exchange) {
        // Other warps may still multiply what lies there.
        Tile::meet();
        INFONCE_UNROLL
        for (int j = 0; j < Tile::COLUMN_BLOCKS; ++j) {
            INFONCE_UNROLL
            for (int side = 0; side < 2; ++side) {
                ScaledSum sum = {-infinity(), 0.0f};
                INFONCE_UNROLL
                for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
                    INFONCE_UNROLL
                    for (int half = 0; half < 2; ++half) {
                        const float z = logits.z[i][j][2 * half + side];
                        sum.maximum = larger(sum.maximum, z);
                    }
                // Over the eight threads that hold the warp's other rows of this column: the maximum
                // first, so that the sums are sums.
                sum.maximum *= scale2;
                INFONCE_UNROLL
                for (int mask = 4; mask <= 16; mask *= 2) sum.maximum = larger(sum.maximum, shuffle_xor(sum.maximum, mask));
                const float offset = finite_offset(sum.maximum);
                INFONCE_UNROLL
                for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
                    INFONCE_UNROLL
                    for (int half = 0; half < 2; ++half) sum.sum += exp2_fast(fma(logits.z[i][j][2 * half + side], scale2, -offset));
                INFONCE_UNROLL
                for (int mask = 4; mask <= 16; mask *= 2) sum.sum += shuffle_xor(sum.sum, mask);
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

    // The same bits in both threads: the one of the lower lane comes first.
    INFONCE_DEVICE ScaledSum combine_ordered(ScaledSum own, ScaledSum other, int mask) const {
        const bool second = place.lane & mask;
        return combine(second ? other : own, second ? own : other);
    }

    // `exchange`: room for a partial sum of every row from every warp column.
    INFONCE_DEVICE void write(SharedAddress exchange) {
        Tile::meet();
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i) {
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                ScaledSum sum = sums[i][half];
                INFONCE_UNROLL
                for (int mask = 1; mask <= 2; mask *= 2)
                    sum = combine_ordered(sum, {shuffle_xor(sum.maximum, mask), shuffle_xor(sum.sum, mask)}, mask);
                if (place.lane % 4 == 0)
                    store_shared(exchange + (place.warp_column * Tile::ROWS + place.row(i, half)) * int(sizeof(ScaledSum)),
                                 sum);
            }
        }
        Tile::meet();
        const uint32_t r = thread_index();
        const uint32_t chunk_row = block_index().x * Tile::ROWS + r;
        if (r < Tile::ROWS && chunk_row < p.anchors.rows) {
            ScaledSum sum = load_shared<ScaledSum>(exchange + int(r * sizeof(ScaledSum)));
            INFONCE_UNROLL
            for (int across = 1; across < Tile::WARPS_ACROSS; ++across)
                sum = combine(sum, load_shared<ScaledSum>(exchange + int((across * Tile::ROWS + r) * sizeof(ScaledSum))));
            store_global(p.rows + uint64_t(block_index().y) * p.anchors.rows + chunk_row, sum);
        }
    }
};

}  // namespace infonce
