// The epilogue of statistics with options (options.h), each against a running maximum, per row and split:
//
//   ONE    Σ 2^z of negatives
//   SETS   Σ 2^z of negatives and of positives; sums and numbers of their logits
//   TWO    Σ 2^((1 + β)z) and Σ 2^(βz) of negatives
#pragma once

#include "similarity/options.h"
#include "similarity/row_sums.h"

namespace infonce {

template <class Tile, Terms TERMS>
struct OptionStatistics : OptionRows<Tile, TERMS> {
    static constexpr int BUFFERS = 1;
    static constexpr bool COLUMN_TERMS = false, WALKS = false;
    using Rows = OptionRows<Tile, TERMS>;
    using Rows::p, Rows::place, Rows::scale2, Rows::work, Rows::options, Rows::SETS;
    RowSums<Tile> first, second;
    SetSums sets[Tile::ROW_BLOCKS][2] = {};

    template <class Params>
    INFONCE_DEVICE OptionStatistics(const Params& params, Work work_tile) : Rows(params, work_tile) {
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) first.of[i][half] = second.of[i][half] = empty_sum();
    }

    INFONCE_DEVICE void tile(Logits<Tile>& logits, uint32_t first_column, SharedAddress) {
        Marks<Tile> marks;
        Rows::apply(logits, first_column, marks);
        if constexpr (SETS) {
            if (marks.any()) {
                add<true>(logits, scale2, second, marks);
                count<true>(logits, marks);
                // In place, so that no selected copies of the logits take registers.
                clear(logits, marks);
            }
            if (options.sums_negatives) count<false>(logits, marks);
        }
        if constexpr (TERMS == Terms::TWO) {
            add<false>(logits, scale2 * options.exponents[0], first, marks);
            add<false>(logits, scale2 * options.exponents[1], second, marks);
        } else {
            add<false>(logits, scale2, first, marks);
        }
    }

    // Sets the marked logits to −∞.
    INFONCE_DEVICE static void clear(Logits<Tile>& logits, const Marks<Tile>& marks) {
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int j = 0; j < Tile::COLUMN_BLOCKS; ++j)
                INFONCE_UNROLL
                for (int e = 0; e < 4; ++e)
                    if (marks.at(i, j, e)) logits.z[i][j][e] = -infinity();
    }

    // Adds 2^(factor · z) of the marked logits, or of all.
    template <bool MARKED>
    INFONCE_DEVICE void add(const Logits<Tile>& logits, float factor, RowSums<Tile>& sums, const Marks<Tile>& marks) const {
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i) {
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                const auto taken = [&](int j, int e) { return !MARKED || marks.at(i, j, e); };
                float largest = -infinity();
                INFONCE_UNROLL
                for (int j = 0; j < Tile::COLUMN_BLOCKS; ++j)
                    INFONCE_UNROLL
                    for (int e = 2 * half; e < 2 * half + 2; ++e)
                        if (taken(j, e)) largest = larger(largest, logits.z[i][j][e]);
                ScaledSum tile_sum = {largest * factor, 0.0f};
                const float offset = finite_offset(tile_sum.maximum);
                INFONCE_UNROLL
                for (int j = 0; j < Tile::COLUMN_BLOCKS; ++j)
                    INFONCE_UNROLL
                    for (int e = 2 * half; e < 2 * half + 2; ++e) {
                        const float term =
                            exp2_shared_out<Tile::POLYNOMIAL_EACH>(2 * j + e % 2, fma(logits.z[i][j][e], factor, -offset));
                        if (taken(j, e)) tile_sum.sum += term;
                    }
                sums.of[i][half] = combine(sums.of[i][half], tile_sum);
            }
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

    INFONCE_DEVICE void write(SharedAddress exchange) {
        first.write(p, work, place, exchange);
        if constexpr (TERMS != Terms::ONE) {
            ScoresParams of_second = p;
            of_second.rows = options.second;
            second.write(of_second, work, place, exchange);
        }
        if constexpr (SETS) write_sets(exchange);
    }

    // As RowSums::write.
    INFONCE_DEVICE void write_sets(SharedAddress exchange) const {
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
                    store(row, sums);
            }
        if constexpr (SHARED) {
            Tile::synchronise();
            const uint32_t row = thread_index();
            if (row >= Tile::ROWS) return;
            SetSums sums = load_shared<SetSums>(exchange + row * BYTES);
            INFONCE_UNROLL
            for (int across = 1; across < Tile::WARPS_ACROSS; ++across)
                sums = infonce::add(sums, load_shared<SetSums>(exchange + (across * Tile::ROWS + row) * BYTES));
            store(row, sums);
        }
    }

    INFONCE_DEVICE void store(uint32_t row, const SetSums& sums) const {
        const uint32_t chunk_row = work.tile * Tile::ROWS + row;
        if (chunk_row < p.anchors.rows) store_global(options.sets + uint64_t(work.split) * p.anchors.rows + chunk_row, sums);
    }
};

}  // namespace infonce
