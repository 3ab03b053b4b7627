// Row sums (m_i, Σ_j 2^(z_ij - m_i)) of a work tile: a thread's own, their reduction over the row's threads, the store.
#pragma once

#include "similarity/scores.h"

namespace infonce {

template <class Tile>
struct RowSums {
    ScaledSum of[Tile::ROW_BLOCKS][2];

    // `exchange`: a buffer for one partial sum of every row and warp column, if there are several warp columns.
    INFONCE_DEVICE void write(const ScoresParams& p, Work work, const Place<Tile>& place, SharedAddress exchange) const {
        constexpr bool SHARED = Tile::WARPS_ACROSS > 1;
        if constexpr (SHARED) Tile::synchronise();
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i) {
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                ScaledSum sum = of[i][half];
                INFONCE_UNROLL
                for (int mask = 1; mask <= 2; mask *= 2) sum = combine_across(sum, mask);
                if (place.lane % 4 != 0) continue;
                const uint32_t row = place.row(i, half);
                if constexpr (SHARED)
                    store_shared(exchange + (place.warp_column * Tile::ROWS + row) * int(sizeof(ScaledSum)), sum);
                else
                    store(p, work, row, sum);
            }
        }
        if constexpr (SHARED) {
            Tile::synchronise();
            const uint32_t row = thread_index();
            if (row >= Tile::ROWS) return;
            ScaledSum sum = load_shared<ScaledSum>(exchange + int(row * sizeof(ScaledSum)));
            INFONCE_UNROLL
            for (int across = 1; across < Tile::WARPS_ACROSS; ++across)
                sum = combine(sum, load_shared<ScaledSum>(exchange + int((across * Tile::ROWS + row) * sizeof(ScaledSum))));
            store(p, work, row, sum);
        }
    }

    INFONCE_DEVICE static void store(const ScoresParams& p, Work work, uint32_t row, const ScaledSum& sum) {
        const uint32_t chunk_row = work.tile * Tile::ROWS + row;
        if (chunk_row < p.anchors.rows) store_global(p.rows + uint64_t(work.split) * p.anchors.rows + chunk_row, sum);
    }
};

}  // namespace infonce
