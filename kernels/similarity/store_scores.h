// The epilogue that stores ⟨q_i, k_j⟩ in f32, not scaled.
#pragma once

#include "similarity/scores.h"
#include "tile/numbers.h"

namespace infonce {

template <class Tile>
struct Scores {
    static constexpr int BUFFERS = 1;
    static constexpr bool COLUMN_TERMS = false, WALKS = false;
    const ScoresParams& p;
    const Work work;
    const Place<Tile> place;

    INFONCE_DEVICE Scores(const ScoresParams& params, Work work_tile) : p(params), work(work_tile) {}

    INFONCE_DEVICE void tile(Logits<Tile>& logits, uint32_t first_column, SharedAddress) {
        // In nearly every tile no store needs its own bounds check.
        const bool whole = p.candidates.rows % 2 == 0 && first_column + Tile::COLUMNS <= p.candidates.rows;
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i) {
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                const uint32_t row = work.tile * Tile::ROWS + place.row(i, half);
                if (row >= p.anchors.rows) continue;
                float* to = p.scores + uint64_t(row) * p.candidates.rows;
                if (whole) {
                    INFONCE_UNROLL
                    for (int j = 0; j < Tile::COLUMN_BLOCKS; ++j) {
                        const Vector8 pair = {{float_bits(logits.z[i][j][2 * half]), float_bits(logits.z[i][j][2 * half + 1])}};
                        store_global(reinterpret_cast<Vector8*>(to + first_column + place.column(j, 0)), pair);
                    }
                    continue;
                }
                INFONCE_UNROLL
                for (int j = 0; j < Tile::COLUMN_BLOCKS; ++j)
                    store_pair(to, first_column + place.column(j, 0), p.candidates.rows, logits.z[i][j][2 * half],
                               logits.z[i][j][2 * half + 1]);
            }
        }
    }

    INFONCE_DEVICE void write(SharedAddress) {}
};

}  // namespace infonce
