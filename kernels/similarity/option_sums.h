// What the epilogues with options sum of a row's logits (options.h): exponentials of negatives and of positives, or softplus
// of a pointwise rule, and sums and numbers of the logits of sets.
#pragma once

#include "similarity/options.h"
#include "similarity/row_sums.h"
#include "similarity/store_pairs.h"
#include "tile/logistic.h"

namespace infonce {

template <class Tile, Terms TERMS>
struct OptionSums {
    static constexpr bool SETS = has_sets(TERMS);
    RowSums<Tile> first, second;
    SetSums sets[Tile::ROW_BLOCKS][2] = {};

    INFONCE_DEVICE OptionSums() {
        // Terms of a pointwise rule are not relative to a maximum.
        const ScaledSum empty = TERMS == Terms::POINT ? ScaledSum{0.0f, 0.0f} : empty_sum();
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) first.of[i][half] = second.of[i][half] = empty;
    }

    // Adds softplus(z + b) of all logits, `scales` of z and of 1 to base 2.
    INFONCE_DEVICE void add_softplus(const Logits<Tile>& logits, Pair scales) {
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half)
                INFONCE_UNROLL
                for (int from = 0; from < Tile::COLUMN_BLOCKS; from += SoftplusSum::COUNT / 2) {
                    SoftplusSum terms;
                    INFONCE_UNROLL
                    for (int j = from; j < from + SoftplusSum::COUNT / 2; ++j)
                        INFONCE_UNROLL
                        for (int e = 2 * half; e < 2 * half + 2; ++e) {
                            const float y2 = fma(logits.z[i][j][e], scales.x[0], scales.x[1]);
                            terms.add(exp2_fast(-absolute(y2)), y2);
                        }
                    first.of[i][half].sum += terms.value();
                }
    }

    // As add_softplus, of STORED_BLOCKS blocks from `from` on, which become factor · σ(z + b).
    INFONCE_DEVICE void weigh(Logits<Tile>& logits, Pair scales, int from, const float (&factor)[Tile::ROW_BLOCKS][2]) {
        static_assert(2 * STORED_BLOCKS == SoftplusSum::COUNT, "the blocks are one sum");
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                SoftplusSum terms;
                INFONCE_UNROLL
                for (int j = from; j < from + STORED_BLOCKS; ++j)
                    INFONCE_UNROLL
                    for (int e = 2 * half; e < 2 * half + 2; ++e) {
                        float& z = logits.z[i][j][e];
                        const float y2 = fma(z, scales.x[0], scales.x[1]);
                        const Logistic of = logistic(y2);
                        terms.add(of.t, y2);
                        z = factor[i][half] * of.sigmoid;
                    }
                first.of[i][half].sum += terms.value();
            }
    }

    // Adds the marked logits and their number, or those that are left.
    template <bool MARKED>
    INFONCE_DEVICE void count(const Logits<Tile>& logits, const Marks<Tile>& marks) {
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                float sum = 0.0f, number = 0.0f;
                INFONCE_UNROLL
                for (int j = 0; j < Tile::COLUMN_BLOCKS; ++j)
                    INFONCE_UNROLL
                    for (int e = 2 * half; e < 2 * half + 2; ++e) {
                        const float z = logits.z[i][j][e];
                        const bool counts = MARKED ? marks.at(i, j, e) : z != -infinity();
                        if (counts) sum += z;
                        if (counts) number += 1.0f;
                    }
                SetSums& to = sets[i][half];
                (MARKED ? to.positives_sum : to.negatives_sum) += sum;
                (MARKED ? to.positives : to.negatives) += number;
            }
    }

    // The sums of a work tile: row statistics in `p.rows` and the options' buffers. `exchange` as of RowSums::write.
    INFONCE_DEVICE void write(const ScoresParams& p, const ScoreOptions& options, Work work, const Place<Tile>& place,
                              SharedAddress exchange) const {
        first.write(p, work, place, exchange);
        if constexpr (TERMS == Terms::SETS || TERMS == Terms::TWO) {
            ScoresParams of_second = p;
            of_second.rows = options.second;
            second.write(of_second, work, place, exchange);
        }
        if constexpr (SETS) {
            const uint32_t rows = p.anchors.rows;
            write_sets({options.sets + uint64_t(work.split) * rows, work.tile * Tile::ROWS, rows}, place, exchange);
        }
    }

private:
    // Where the sums of a split's rows go, the tile's first row and the number of rows.
    struct Target {
        SetSums* sets;
        uint32_t first, rows;

        INFONCE_DEVICE void store(uint32_t row, const SetSums& sums) const {
            if (first + row < rows) store_global(sets + first + row, sums);
        }
    };

    // As RowSums::write.
    INFONCE_DEVICE void write_sets(const Target& to, const Place<Tile>& place, SharedAddress exchange) const {
        constexpr bool SHARED = Tile::WARPS_ACROSS > 1;
        constexpr uint32_t BYTES = sizeof(SetSums);
        if constexpr (SHARED) Tile::synchronise();
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                SetSums sums = sets[i][half];
                INFONCE_UNROLL
                for (int mask = 1; mask <= 2; mask *= 2) sums = add_across(sums, mask);
                if (place.lane % 4 != 0) continue;
                const uint32_t row = place.row(i, half);
                if constexpr (SHARED)
                    store_shared(exchange + (place.warp_column * Tile::ROWS + row) * BYTES, sums);
                else
                    to.store(row, sums);
            }
        if constexpr (SHARED) {
            Tile::synchronise();
            const uint32_t row = thread_index();
            if (row >= Tile::ROWS) return;
            SetSums sums = load_shared<SetSums>(exchange + row * BYTES);
            INFONCE_UNROLL
            for (int across = 1; across < Tile::WARPS_ACROSS; ++across)
                sums = infonce::add(sums, load_shared<SetSums>(exchange + (across * Tile::ROWS + row) * BYTES));
            to.store(row, sums);
        }
    }
};

}  // namespace infonce
