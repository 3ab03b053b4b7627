// Options of a contrast in the tile loops: biases of candidates, ids that exclude, a guard, sets of positives. They
// change a tile's logits in place, or mark them, before an epilogue sums or weighs these. An option that a call lacks
// costs one branch a tile.
#pragma once

#include "similarity/anchor_rows.h"
#include "tile/set_sums.h"

namespace infonce {

// Which exponentials an epilogue has, and where the positives are.
enum class Terms {
    ONE,   // Σ 2^z of negatives; the one positive is in no tile
    SETS,  // Σ 2^z of negatives and of positives, which are in the tiles
    TWO,   // Σ 2^((1 + β)z) and Σ 2^(βz) of negatives; the one positive is in no tile
    POINT, // Σ softplus of z + b of negatives and of -z - b of positives, which are in the tiles
};

// Whether a tile has the positives.
constexpr bool has_sets(Terms terms) { return terms == Terms::SETS || terms == Terms::POINT; }

// Vectors are null where there is no such option. Those of anchors are of all anchors, those of rows of the chunk's.
struct ScoreOptions {
    const uint32_t *anchor_ids, *candidate_ids;        // equal ids exclude; 0xffffffff equals nothing
    const uint32_t *anchor_labels, *candidate_labels;  // sets: equal labels are positives; 0xffffffff equals nothing
    const uint32_t *starts, *listed;                   // sets: listed[starts[i]] to listed[starts[i + 1] - 1], ascending
    const float* bias;                                 // c of the candidates, in nats
    const float* guarded;                              // z₊ of the anchors, in nats
    float margin;                                      // a guard excludes z > z₊ - s·margin
    float exponents[2];                                // TWO: 1 + β and β
    float sign;                                        // SETS: of the second exponential
    uint32_t sums_negatives;                           // SETS: whether logits of negatives are summed
    float logit_bias;                                  // POINT: b in nats, if it does not live on the device
    const float* device_bias;                          // POINT: where it lives; else null
    // Statistics, splits × rows: the second sums (TWO), or those of positives (SETS); SETS.
    ScaledSum* second;
    SetSums* sets;
    // Weights: o₂ in base 2; SETS: c and ε'.
    const float *second_offset2, *positive, *uniform;
};

struct OptionScoresParams {
    ScoresParams scores;
    ScoreOptions options;
    INFONCE_DEVICE operator const ScoresParams&() const { return scores; }
};

// Marks of a thread's entries of a tile.
template <class Tile>
struct Marks {
    static constexpr int COUNT = Tile::ROW_BLOCKS * Tile::COLUMN_BLOCKS * 4;
    uint32_t words[COUNT / 32] = {};

    INFONCE_DEVICE static constexpr int index(int i, int j, int e) { return (i * Tile::COLUMN_BLOCKS + j) * 4 + e; }
    INFONCE_DEVICE bool at(int i, int j, int e) const { return words[index(i, j, e) / 32] >> index(i, j, e) % 32 & 1; }
    INFONCE_DEVICE void mark(int index, bool wanted) {
        // No dynamic index, so that the words stay in registers.
        INFONCE_UNROLL
        for (int word = 0; word < COUNT / 32; ++word) words[word] |= uint32_t(wanted && index / 32 == word) << index % 32;
    }
    INFONCE_DEVICE bool any() const {
        uint32_t all = 0;
        INFONCE_UNROLL
        for (int word = 0; word < COUNT / 32; ++word) all |= words[word];
        return all != 0;
    }
};

template <class Tile, Terms TERMS>
struct OptionRows : AnchorRows<Tile> {
    static constexpr bool SETS = has_sets(TERMS);
    static constexpr uint32_t NOTHING = 0xffffffffu;
    using Rows = AnchorRows<Tile>;
    using Rows::p, Rows::place, Rows::row, Rows::positive, Rows::excluded, Rows::scale2;
    const ScoreOptions& options;

    template <class Params>
    INFONCE_DEVICE OptionRows(const Params& params, Work work_tile) : Rows(params, work_tile), options(params.options) {}

    // Adds c/s to a tile's products, sets excluded ones to −∞, and marks the positives of sets.
    INFONCE_DEVICE void apply(Logits<Tile>& logits, uint32_t first_column, Marks<Tile>& marks) const {
        if (options.bias) add_bias(logits, first_column);
        if constexpr (SETS) {
            mask_sets(logits, first_column);
            find_positives(logits, first_column, marks);
        } else {
            Rows::mask(logits, first_column);
        }
        if (options.anchor_ids) exclude_ids(logits, first_column, marks);
        if (!SETS && options.guarded) exclude_guarded(logits);
    }

    // b in base 2.
    INFONCE_DEVICE float bias2() const {
        return LOG2_E * (options.device_bias ? load_global(options.device_bias) : options.logit_bias);
    }

    // Calls `use(z)` for every marked logit.
    template <class Use>
    INFONCE_DEVICE static void each_marked(Logits<Tile>& logits, const Marks<Tile>& marks, int from, int blocks, const Use& use) {
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int j = from; j < from + blocks; ++j)
                INFONCE_UNROLL
                for (int e = 0; e < 4; ++e)
                    if (marks.at(i, j, e)) logits.z[i][j][e] = use(logits.z[i][j][e]);
    }
    // Marked logits z + b become -z - b.
    INFONCE_DEVICE void mirror_marked(Logits<Tile>& logits, const Marks<Tile>& marks) const {
        const float twice = 2.0f * bias2() / scale2;
        each_marked(logits, marks, 0, Tile::COLUMN_BLOCKS, [&](float z) { return -z - twice; });
    }

    template <class Value>
    struct Two {
        Value x[2];
    };
    // Values of the thread's two columns of a block; past the end, the last one's.
    template <class Value>
    INFONCE_DEVICE Two<Value> of_columns(const Value* values, uint32_t first_column, int block) const {
        const uint32_t last = p.candidates.rows - 1, c = first_column + place.column(block, 0);
        return {{load_global(values + (c < last ? c : last)), load_global(values + (c + 1 < last ? c + 1 : last))}};
    }

    // A word of the thread's anchors; NOTHING past the end.
    INFONCE_DEVICE void of_rows(const uint32_t* values, uint32_t (&words)[Tile::ROW_BLOCKS][2]) const {
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half)
                words[i][half] = Rows::inside(i, half) ? load_global(values + p.first_anchor + row[i][half]) : NOTHING;
    }

    INFONCE_DEVICE void add_bias(Logits<Tile>& logits, uint32_t first_column) const {
        const float inverse = 1.0f / p.contrast.scale_value();
        INFONCE_UNROLL
        for (int j = 0; j < Tile::COLUMN_BLOCKS; ++j) {
            const Two<float> bias = of_columns(options.bias, first_column, j);
            INFONCE_UNROLL
            for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
                INFONCE_UNROLL
                for (int e = 0; e < 4; ++e) logits.z[i][j][e] = fma(bias.x[e % 2], inverse, logits.z[i][j][e]);
        }
    }

    // As Rows::mask, but for positives.
    INFONCE_DEVICE void mask_sets(Logits<Tile>& logits, uint32_t first_column) const {
        if (!Rows::has_exceptions(first_column)) return;
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int j = 0; j < Tile::COLUMN_BLOCKS; ++j)
                INFONCE_UNROLL
                for (int e = 0; e < 4; ++e) {
                    const uint32_t c = first_column + place.column(j, e % 2);
                    if (c >= p.candidates.rows || !Rows::inside(i, e / 2) || c == excluded[i][e / 2])
                        logits.z[i][j][e] = -infinity();
                }
    }

    // Marks positives that are not excluded: by labels, by lists, or the one of ContrastView.
    INFONCE_DEVICE void find_positives(const Logits<Tile>& logits, uint32_t first_column, Marks<Tile>& marks) const {
        if (options.anchor_labels)
            equal_words(options.anchor_labels, options.candidate_labels, first_column, [&](int i, int j, int e, bool equal) {
                marks.mark(marks.index(i, j, e), equal && logits.z[i][j][e] > -infinity());
            });
        else if (options.starts)
            find_listed(first_column, marks);
        else
            find_single(logits, first_column, marks);
    }

    // Calls `use(i, j, e, whether the words of row and column are equal)`.
    template <class Use>
    INFONCE_DEVICE void equal_words(const uint32_t* of_anchors, const uint32_t* of_candidates, uint32_t first_column,
                                    const Use& use) const {
        uint32_t own[Tile::ROW_BLOCKS][2];
        of_rows(of_anchors, own);
        INFONCE_UNROLL
        for (int j = 0; j < Tile::COLUMN_BLOCKS; ++j) {
            const Two<uint32_t> column = of_columns(of_candidates, first_column, j);
            INFONCE_UNROLL
            for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
                INFONCE_UNROLL
                for (int e = 0; e < 4; ++e)
                    use(i, j, e, column.x[e % 2] == own[i][e / 2] && own[i][e / 2] != NOTHING);
        }
    }

    INFONCE_DEVICE void find_single(const Logits<Tile>& logits, uint32_t first_column, Marks<Tile>& marks) const {
        if (!Rows::has_exceptions(first_column)) return;
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int j = 0; j < Tile::COLUMN_BLOCKS; ++j)
                INFONCE_UNROLL
                for (int e = 0; e < 4; ++e) {
                    const bool equal = first_column + place.column(j, e % 2) == positive[i][e / 2];
                    marks.mark(marks.index(i, j, e), equal && logits.z[i][j][e] > -infinity());
                }
    }

    // Searches each row's list for the tile's first column. Each thread marks its own columns.
    INFONCE_DEVICE void find_listed(uint32_t first_column, Marks<Tile>& marks) const {
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                if (!Rows::inside(i, half)) continue;
                const uint32_t* start = options.starts + p.first_anchor + row[i][half];
                uint32_t low = load_global(start), high = load_global(start + 1);
                const uint32_t end = high;
                while (low < high) {
                    const uint32_t middle = low + (high - low) / 2;
                    if (load_global(options.listed + middle) < first_column)
                        low = middle + 1;
                    else
                        high = middle;
                }
                for (; low < end; ++low) {
                    const uint32_t c = load_global(options.listed + low), in_tile = c - first_column;
                    if (in_tile >= uint32_t(Tile::COLUMNS) || c >= p.candidates.rows) break;
                    const uint32_t in_warp = in_tile - uint32_t(place.warp_column * Tile::WARP_COLUMNS);
                    const bool own = in_warp < uint32_t(Tile::WARP_COLUMNS) && in_warp % 8 / 2 == uint32_t(place.lane % 4);
                    const int block = int(in_warp / 8), entry = int(2 * half + in_warp % 2);
                    marks.mark(marks.index(i, block, entry), own && c != excluded[i][half]);
                }
            }
    }

    INFONCE_DEVICE void exclude_ids(Logits<Tile>& logits, uint32_t first_column, const Marks<Tile>& marks) const {
        equal_words(options.anchor_ids, options.candidate_ids, first_column, [&](int i, int j, int e, bool equal) {
            if (equal && !(SETS && marks.at(i, j, e))) logits.z[i][j][e] = -infinity();
        });
    }

    // Of a row without a positive nothing is excluded.
    INFONCE_DEVICE void exclude_guarded(Logits<Tile>& logits) const {
        const float s = p.contrast.scale_value();
        float limit[Tile::ROW_BLOCKS][2];
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                const float own =
                    Rows::inside(i, half) ? load_global(options.guarded + p.first_anchor + row[i][half]) : -infinity();
                limit[i][half] = own == -infinity() ? infinity() : own / s - options.margin;
            }
        INFONCE_UNROLL
        for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
            INFONCE_UNROLL
            for (int j = 0; j < Tile::COLUMN_BLOCKS; ++j)
                INFONCE_UNROLL
                for (int e = 0; e < 4; ++e)
                    if (logits.z[i][j][e] > limit[i][e / 2]) logits.z[i][j][e] = -infinity();
    }
};

}  // namespace infonce
