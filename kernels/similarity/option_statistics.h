// The epilogue of statistics with options (options.h), exponentials against a running maximum, per row and split:
//
//   ONE    Σ 2^z of negatives
//   SETS   Σ 2^z of negatives and of positives; sums and numbers of their logits
//   TWO    Σ 2^((1 + β)z) and Σ 2^(βz) of negatives
//   POINT  Σ softplus of z + b of negatives and of -z - b of positives, without a maximum
#pragma once

#include "similarity/option_sums.h"

namespace infonce {

template <class Tile, Terms TERMS>
struct OptionStatistics : OptionRows<Tile, TERMS> {
    static constexpr int BUFFERS = 1;
    static constexpr bool COLUMN_TERMS = false, WALKS = false;
    using Rows = OptionRows<Tile, TERMS>;
    using Rows::p, Rows::place, Rows::scale2, Rows::work, Rows::options, Rows::SETS;
    OptionSums<Tile, TERMS> sums;

    template <class Params>
    INFONCE_DEVICE OptionStatistics(const Params& params, Work work_tile) : Rows(params, work_tile) {}

    INFONCE_DEVICE void tile(Logits<Tile>& logits, uint32_t first_column, SharedAddress) {
        Marks<Tile> marks;
        Rows::apply(logits, first_column, marks);
        if constexpr (SETS) {
            if (marks.any()) {
                if constexpr (TERMS == Terms::SETS) add<true>(logits, scale2, sums.second, marks);
                sums.template count<true>(logits, marks);
                if constexpr (TERMS == Terms::POINT) Rows::mirror_marked(logits, marks);
                // In place, so that no selected copies of the logits take registers.
                if constexpr (TERMS == Terms::SETS)
                    Rows::each_marked(logits, marks, 0, Tile::COLUMN_BLOCKS, [](float) { return -infinity(); });
            }
            if (options.sums_negatives) sums.template count<false>(logits, marks);
        }
        if constexpr (TERMS == Terms::TWO) {
            add<false>(logits, scale2 * options.exponents[0], sums.first, marks);
            add<false>(logits, scale2 * options.exponents[1], sums.second, marks);
        } else if constexpr (TERMS == Terms::POINT) {
            sums.add_softplus(logits, {scale2, Rows::bias2()});
        } else {
            add<false>(logits, scale2, sums.first, marks);
        }
    }

    // Adds 2^(factor · z) of the marked logits, or of all.
    template <bool MARKED>
    INFONCE_DEVICE void add(const Logits<Tile>& logits, float factor, RowSums<Tile>& to, const Marks<Tile>& marks) const {
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
                to.of[i][half] = combine(to.of[i][half], tile_sum);
            }
        }
    }

    INFONCE_DEVICE void write(SharedAddress exchange) const { sums.write(p, options, work, place, exchange); }
};

}  // namespace infonce
