// Sums of exponentials of a tile's columns. Eight lanes of a warp hold the same columns, each of other
// rows: in three exchanges each gives away half of what it has, so that in the end every lane has the
// whole warp's result for an eighth of the columns.
#pragma once

#include "ptx/shuffle.h"
#include "similarity/scores.h"

namespace infonce {

// Of COUNT columns, those from lane / 4 · COUNT / 8 on are the lane's: they come to lie first. SIZE: how many
// are given away first.
template <int SIZE, int COUNT, class Combine>
INFONCE_DEVICE void share_columns(float (&column)[COUNT], const Combine& combine) {
    constexpr int MASK = SIZE * 32 / COUNT;
    const bool upper = thread_index() & MASK;
    INFONCE_UNROLL
    for (int i = 0; i < SIZE; ++i) {
        const float given = shuffle_xor(upper ? column[i] : column[i + SIZE], MASK);
        column[i] = combine(upper ? column[i + SIZE] : column[i], given);
    }
    if constexpr (MASK > 4) share_columns<SIZE / 2>(column, combine);
}

// The way back: all columns for all lanes. SIZE: how many a lane has.
template <int SIZE, int COUNT>
INFONCE_DEVICE void gather_columns(float (&column)[COUNT]) {
    constexpr int MASK = SIZE * 32 / COUNT;
    const bool upper = thread_index() & MASK;
    INFONCE_UNROLL
    for (int i = 0; i < SIZE; ++i) {
        const float own = column[i], other = shuffle_xor(own, MASK);
        column[i] = upper ? other : own;
        column[i + SIZE] = upper ? own : other;
    }
    if constexpr (MASK < 16) gather_columns<2 * SIZE>(column);
}

template <class Tile>
struct ColumnSums {
    static constexpr int BLOCKS = Tile::COLUMN_BLOCKS < 16 ? Tile::COLUMN_BLOCKS : 16;  // of 8 columns, at a time
    static constexpr int COUNT = 2 * BLOCKS, OWN = COUNT / 8;  // of a thread's columns, before and after the exchange
    const ScoresParams& p;
    const Work& work;
    const Place<Tile>& place;
    float scale2;

    // `exchange`: the room that the tile hands them over in. `BOUNDED`: `values` are exponentials without an offset;
    // else logits, whose maximum comes first, so that the sums are sums.
    template <bool BOUNDED>
    INFONCE_DEVICE void write(const Logits<Tile>& values, uint32_t first_column, SharedAddress exchange) const {
        const SharedAddress room = Tile::open_columns(exchange);
        INFONCE_UNROLL
        for (int first = 0; first < Tile::COLUMN_BLOCKS; first += BLOCKS) {
            float sums[COUNT], maxima[OWN] = {};
            if constexpr (BOUNDED)
                add(values, first, sums);
            else
                add_exponentials(values, first, sums, maxima);
            share_columns<COUNT / 2>(sums, [](float a, float b) { return a + b; });
            INFONCE_UNROLL
            for (int i = 0; i < OWN; ++i) {
                const int own = int(place.lane) / 4 * OWN + i, column = place.column(first, 0) + own / 2 * 8 + own % 2;
                store_shared(room + (place.warp_row * Tile::COLUMNS + column) * int(sizeof(ScaledSum)),
                             ScaledSum{maxima[i], sums[i]});
            }
        }
        Tile::close_columns(room, [&](uint32_t c) {
            if (first_column + c >= p.candidates.rows) return;
            ScaledSum sum = BOUNDED ? ScaledSum{0.0f, 0.0f} : empty_sum();
            INFONCE_UNROLL
            for (int warp_row = 0; warp_row < Tile::WARPS_DOWN; ++warp_row) {
                const auto part = load_shared<ScaledSum>(room + (warp_row * Tile::COLUMNS + int(c)) * int(sizeof(ScaledSum)));
                if constexpr (BOUNDED)
                    sum.sum += part.sum;
                else
                    sum = combine(sum, part);
            }
            store_global(p.columns + uint64_t(work.tile) * p.candidates.rows + first_column + c, sum);
        });
    }

    INFONCE_DEVICE static void add(const Logits<Tile>& values, int first, float (&sums)[COUNT]) {
        INFONCE_UNROLL
        for (int i = 0; i < COUNT; ++i) {
            sums[i] = 0.0f;
            INFONCE_UNROLL
            for (int block = 0; block < Tile::ROW_BLOCKS; ++block)
                sums[i] += values.z[block][first + i / 2][i % 2] + values.z[block][first + i / 2][2 + i % 2];
        }
    }

    // The warp's maxima of the lane's own columns stay in `own`.
    INFONCE_DEVICE void add_exponentials(const Logits<Tile>& values, int first, float (&sums)[COUNT], float (&own)[OWN]) const {
        float maxima[COUNT];
        INFONCE_UNROLL
        for (int i = 0; i < COUNT; ++i) {
            maxima[i] = -infinity();
            INFONCE_UNROLL
            for (int block = 0; block < Tile::ROW_BLOCKS; ++block)
                INFONCE_UNROLL
                for (int half = 0; half < 2; ++half)
                    maxima[i] = larger(maxima[i], values.z[block][first + i / 2][2 * half + i % 2]);
            maxima[i] *= scale2;
        }
        share_columns<COUNT / 2>(maxima, larger);
        INFONCE_UNROLL
        for (int i = 0; i < OWN; ++i) own[i] = maxima[i];
        gather_columns<OWN>(maxima);
        INFONCE_UNROLL
        for (int i = 0; i < COUNT; ++i) {
            const float offset = finite_offset(maxima[i]);
            sums[i] = 0.0f;
            INFONCE_UNROLL
            for (int block = 0; block < Tile::ROW_BLOCKS; ++block)
                INFONCE_UNROLL
                for (int half = 0; half < 2; ++half)
                    sums[i] += exp2_fast(fma(values.z[block][first + i / 2][2 * half + i % 2], scale2, -offset));
        }
    }
};

}  // namespace infonce
