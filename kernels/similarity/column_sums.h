// Column sums (m_j, Σ_i 2^(z_ij - m_j)) over a tile's rows. Eight lanes of a warp hold the same columns, each in other
// rows. In three exchanges a lane gives away half of its columns each time, so it ends with the warp's sums of an
// eighth of the columns.
#pragma once

#include "ptx/shuffle.h"
#include "similarity/scores.h"

namespace infonce {

// Reduces COUNT columns over the eight lanes: the lane ends with COUNT / 8 of them, from lane / 4 · COUNT / 8 on, at
// the front. SIZE: columns given away in this exchange, first COUNT / 2.
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

// The reverse of share_columns: every lane gets all columns. SIZE: columns that a lane has before the exchange.
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

// One value of each of COUNT columns, as stored in shared memory.
template <int COUNT>
struct alignas(4 * COUNT) ColumnValues {
    float of[COUNT];
};

// In shared memory each warp has a row of sums and, unless logits are bounded, a row of maxima. Columns are stored in
// the order in which lanes hold them, not in the tile's: a lane stores its OWN values as one vector, a warp 32 · OWN
// consecutive values, so there are no bank conflicts. Then a thread loads two consecutive values of every warp's row.
//
// Wavefronts of 128 bytes a warp and tile of HopperTile, where OWN is 4 and a warp stores twice: stores take 2 · 32 ·
// 16 / 128 = 8, loads 8 · 32 · 8 / 128 = 16; twice as many with maxima. Pairs (maximum, sum) in the tile's order would
// take 64 for the stores.
template <class Tile>
struct ColumnSums {
    static constexpr int BLOCKS = Tile::COLUMN_BLOCKS < 16 ? Tile::COLUMN_BLOCKS : 16;  // of 8 columns, at a time
    static constexpr int COUNT = 2 * BLOCKS, OWN = COUNT / 8;  // a thread's columns before and after the exchange
    static constexpr int WARP_BYTES = Tile::COLUMNS * int(sizeof(float)), MAXIMA = Tile::WARPS_DOWN * WARP_BYTES;
    const ScoresParams& p;
    const uint32_t partial;  // index of the partial sum of each column that this tile writes
    const Place<Tile>& place;
    float scale2;

    // The column stored at `index`. For an even index the column is even, and the next column is at the next index.
    INFONCE_DEVICE static uint32_t column_at(uint32_t index) {
        constexpr uint32_t ALL = 32 * OWN;
        const uint32_t lane = index / OWN % 32, own = lane / 4 * OWN + index % OWN;
        return index / ALL * ALL + own / 2 * 8 + lane % 4 * 2 + own % 2;
    }

    // `exchange`: the buffer for the warps' sums. BOUNDED: `values` are exponentials without an offset; otherwise
    // logits, whose maxima come first.
    template <bool BOUNDED>
    INFONCE_DEVICE void write(const Logits<Tile>& values, uint32_t first_column, SharedAddress exchange) const {
        const SharedAddress buffer = Tile::open_columns(exchange);
        INFONCE_UNROLL
        for (int first = 0; first < Tile::COLUMN_BLOCKS; first += BLOCKS) {
            float sums[COUNT];
            ColumnValues<OWN> own;
            const SharedAddress to = buffer + place.warp_row * WARP_BYTES +
                                     (place.warp_column * Tile::WARP_COLUMNS + first * 8 + place.lane * OWN) * int(sizeof(float));
            if constexpr (BOUNDED) {
                add(values, first, sums);
            } else {
                add_exponentials(values, first, sums, own.of);
                store_shared(to + MAXIMA, own);
            }
            share_columns<COUNT / 2>(sums, [](float a, float b) { return a + b; });
            INFONCE_UNROLL
            for (int i = 0; i < OWN; ++i) own.of[i] = sums[i];
            store_shared(to, own);
        }
        Tile::close_columns(buffer, [&](uint32_t index) {
            using Pair = ColumnValues<2>;
            ScaledSum sums[2];
            INFONCE_UNROLL
            for (int i = 0; i < 2; ++i) sums[i] = BOUNDED ? ScaledSum{0.0f, 0.0f} : empty_sum();
            INFONCE_UNROLL
            for (int warp_row = 0; warp_row < Tile::WARPS_DOWN; ++warp_row) {
                const SharedAddress from = buffer + warp_row * WARP_BYTES + index * sizeof(float);
                const auto partial = load_shared<Pair>(from);
                if constexpr (BOUNDED) {
                    INFONCE_UNROLL
                    for (int i = 0; i < 2; ++i) sums[i].sum += partial.of[i];
                } else {
                    const auto maxima = load_shared<Pair>(from + MAXIMA);
                    INFONCE_UNROLL
                    for (int i = 0; i < 2; ++i) sums[i] = combine(sums[i], {maxima.of[i], partial.of[i]});
                }
            }
            const uint32_t column = first_column + column_at(index);
            INFONCE_UNROLL
            for (uint32_t i = 0; i < 2; ++i)
                if (column + i < p.candidates.rows)
                    store_global(p.columns + uint64_t(partial) * p.candidates.rows + column + i, sums[i]);
        });
    }

    INFONCE_DEVICE static void add(const Logits<Tile>& values, int first, float (&sums)[COUNT]) {
        INFONCE_UNROLL
        for (int i = 0; i < COUNT; ++i)
            INFONCE_UNROLL
            for (int block = 0; block < Tile::ROW_BLOCKS; ++block) {
                const float two = values.z[block][first + i / 2][i % 2] + values.z[block][first + i / 2][2 + i % 2];
                sums[i] = block == 0 ? two : sums[i] + two;
            }
    }

    // Leaves the warp's maxima of the lane's own columns in `own`.
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
            INFONCE_UNROLL
            for (int row = 0; row < 2 * Tile::ROW_BLOCKS; ++row) {
                const float z = values.z[row / 2][first + i / 2][row % 2 * 2 + i % 2];
                const float one = exp2_fast(fma(z, scale2, -offset));
                sums[i] = row == 0 ? one : sums[i] + one;
            }
        }
    }
};

}  // namespace infonce
