// The epilogue that stores W_ij · 2^shift with options (options.h), in the inputs' type, 0 for exclusions:
//
//   ONE    2^(z - o) of a negative
//   SETS   2^(z - o) - ε' of a negative, ±2^(z - o₂) - c - ε' of a positive
//   TWO    2^((1 + β)z - o) - 2^(βz - o₂) of a negative
//   POINT  2^-o·σ(z + b) of a negative, -2^-o·σ(-z - b) of a positive; the same pass leaves the row sums, where wanted
//
// Where the one positive is in no tile, W is 0 there.
#pragma once

#include "similarity/option_sums.h"
#include "similarity/store_pairs.h"

namespace infonce {

template <class T, class Tile, Terms TERMS, template <class, class> class Stores = PairStores>
struct OptionWeights : OptionRows<Tile, TERMS> {
    static constexpr int BUFFERS = 1;
    static constexpr bool COLUMN_TERMS = false, WALKS = false;
    using Rows = OptionRows<Tile, TERMS>;
    using Rows::p, Rows::row, Rows::scale2, Rows::options;
    static constexpr bool SETS = TERMS == Terms::SETS, POINT = TERMS == Terms::POINT;
    // shift - o and shift - o₂; c · 2^shift and ε' · 2^shift.
    float first_term[Tile::ROW_BLOCKS][2], second_term[Tile::ROW_BLOCKS][2];
    float share[Tile::ROW_BLOCKS][2], uniform[Tile::ROW_BLOCKS][2];
    Stores<T, Tile> stores;
    OptionSums<Tile, TERMS> sums;

    template <class Params>
    INFONCE_DEVICE OptionWeights(const Params& params, Work work_tile) : Rows(params, work_tile), stores(params) {
        const float shift = weight_shift<T>(p.shift), factor = p.shift ? load_global(&p.shift->factor) : 1.0f;
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                const auto of_row = [&](const float* values, float outside) {
                    return Rows::inside(i, half) ? load_global(values + row[i][half]) : outside;
                };
                first_term[i][half] = shift - of_row(p.row_offset2, infinity());
                if constexpr (POINT) first_term[i][half] = exp2_fast(first_term[i][half]);
                if constexpr (SETS || TERMS == Terms::TWO) second_term[i][half] = shift - of_row(options.second_offset2, infinity());
                if constexpr (SETS) {
                    share[i][half] = factor * of_row(options.positive, 0.0f);
                    uniform[i][half] = options.uniform ? factor * of_row(options.uniform, 0.0f) : 0.0f;
                }
            }
    }

    INFONCE_DEVICE void tile(Logits<Tile>& logits, uint32_t first_column, SharedAddress buffer) {
        Marks<Tile> marks;
        Rows::apply(logits, first_column, marks);
        if constexpr (POINT) {
            if (marks.any()) {
                sums.template count<true>(logits, marks);
                Rows::mirror_marked(logits, marks);
            }
        }
        INFONCE_UNROLL
        for (int first = 0; first < Tile::COLUMN_BLOCKS; first += STORED_BLOCKS) {
            if constexpr (SETS) {
                if (options.uniform)
                    weigh_sets<true>(logits, marks, first);
                else
                    weigh_sets<false>(logits, marks, first);
            } else if constexpr (POINT) {
                sums.weigh(logits, {scale2, Rows::bias2()}, first, first_term);
                if (marks.any()) Rows::each_marked(logits, marks, first, STORED_BLOCKS, [](float w) { return -w; });
            } else {
                weigh(logits, first);
            }
            stores.store(*this, logits, first_column, first, buffer);
        }
    }

    // Logits become weights, for STORED_BLOCKS blocks from `first` on.
    INFONCE_DEVICE void weigh(Logits<Tile>& logits, int first) const {
        INFONCE_UNROLL
        for (int j = first; j < first + STORED_BLOCKS; ++j)
            INFONCE_UNROLL
            for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
                INFONCE_UNROLL
                for (int e = 0; e < 4; ++e) {
                    float& z = logits.z[i][j][e];
                    if constexpr (TERMS == Terms::TWO) {
                        const float second = exp2_fast(fma(z, scale2 * options.exponents[1], second_term[i][e / 2]));
                        z = exp2_fast(fma(z, scale2 * options.exponents[0], first_term[i][e / 2])) - second;
                    } else {
                        z = exp2_fast(fma(z, scale2, first_term[i][e / 2]));
                    }
                }
    }

    template <bool UNIFORM>
    INFONCE_DEVICE void weigh_sets(Logits<Tile>& logits, const Marks<Tile>& marks, int first) const {
        INFONCE_UNROLL
        for (int j = first; j < first + STORED_BLOCKS; ++j)
            INFONCE_UNROLL
            for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
                INFONCE_UNROLL
                for (int e = 0; e < 4; ++e) {
                    float& z = logits.z[i][j][e];
                    const bool positive = marks.at(i, j, e);
                    float weight = exp2_fast(fma(z, scale2, positive ? second_term[i][e / 2] : first_term[i][e / 2]));
                    if (positive) weight = fma(options.sign, weight, -share[i][e / 2]);
                    if (UNIFORM) weight -= z != -infinity() ? uniform[i][e / 2] : 0.0f;
                    z = weight;
                }
    }

    INFONCE_DEVICE void write(SharedAddress exchange) {
        stores.finish();
        if constexpr (POINT) {
            if (p.rows) sums.write(p, options, Rows::work, Rows::place, exchange);
        }
    }
};

}  // namespace infonce
