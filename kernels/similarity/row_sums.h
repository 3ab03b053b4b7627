// The sums of the rows that a thread holds, and how those of a tile's threads become one number a row.
#pragma once

#include "similarity/scores.h"

namespace infonce {

template <class Tile>
struct RowSums {
    ScaledSum of[Tile::ROW_BLOCKS][2];

    // `exchange`: room for a partial sum of every row from every warp column.
    INFONCE_DEVICE void write(const ScoresParams& p, const Place<Tile>& place, SharedAddress exchange) const {
        Tile::meet();
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i) {
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                ScaledSum sum = of[i][half];
                INFONCE_UNROLL
                for (int mask = 1; mask <= 2; mask *= 2) sum = combine_across(sum, mask);
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
