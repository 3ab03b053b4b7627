// The epilogue that lists the scores ⟨q_i, k_j⟩ that may be among the k best of row i. Each row has a bar: only scores
// above it are listed. A row's lists take 8 KB a split; storing all of its scores would take 4M bytes, M candidates.
//
// The four threads that hold a row have a list each. A tile appends the scores above the bar; a row without a bar lists
// all. From time to time the warp prunes the row: bisection finds a higher bar that k to 5k/4 + 4 entries reach, and
// the others are dropped. No other warp has the row, so there are no atomics. The order is that of `rank`: NaN first,
// then larger scores, then smaller indices. Later columns have larger indices, so a score equal to the bar is dropped.
//
// The warps of a block wait for each other, so all prune after the same tiles: after t tiles, and again after
// t·(1 + growth/4), which is 16t for k up to 25, 7t for k = 64 and 9t/4 for k = 200. With scores in random order a tile
// has about k/t columns above a bar that is t tiles old, and lists get at most three quarters full. For other orders, a
// warp with a list that the next tile could overflow prunes at once. With M = 32,768 a row is pruned twice for k = 10,
// three times for k = 64, five times for k = 200.
//
// Cost on sm_90a, modelled from the instructions, in clocks of a scheduler, which has two such warps: a warp computes
// the maxima of a tile in 280, beside 16·D of products. A score above the bar costs 130 more, and 37 for every two
// blocks of columns in which a thread of the warp has one. Pruning a row takes 1,700 with up to 256 entries and 2,200
// with 576, and a warp has 16 rows; products wait meanwhile. With M = 32,768 and D = 512 all this is 5% of the
// products' time for k = 10, 9% for k = 64 and 17% for k = 200.
#pragma once

#include "similarity/scores.h"

namespace infonce {

struct ListedScore {
    float score;
    uint32_t index;
};

// An integer that is larger for better candidates: NaN first, then larger scores, then smaller indices. Its high word
// is the score's bits, made monotonic; its low word the complement of the index.
INFONCE_DEVICE uint64_t rank(ListedScore of) {
    const uint32_t bits = float_bits(of.score == 0.0f ? 0.0f : of.score);
    const uint32_t ordered = of.score != of.score ? 0xfffffffeu : (bits & 0x80000000u ? ~bits : bits | 0x80000000u);
    return uint64_t(ordered) << 32 | (0xffffffffu - of.index);
}
// The candidate of a rank, but for the sign of 0 and the bits of NaN.
INFONCE_DEVICE ListedScore ranked(uint64_t rank) {
    const uint32_t ordered = uint32_t(rank >> 32);
    return {bits_float(ordered & 0x80000000u ? ordered ^ 0x80000000u : ~ordered), 0xffffffffu - uint32_t(rank)};
}

// Memory of the lists, outermost first: split, group of ROWS rows, entry, row of the group, owner (thread of a row).
struct BestLists {
    static constexpr uint32_t CAPACITY = LIST_CAPACITY, ROWS = LIST_ROWS, OWNERS = LIST_OWNERS, ACROSS = ROWS * OWNERS;

    // The first entry of the list of `row` and its thread `owner`; consecutive entries are ACROSS apart.
    INFONCE_DEVICE static uint64_t first(uint32_t split, uint32_t rows, uint32_t row, uint32_t owner) {
        const uint64_t block = uint64_t(split) * ((rows + ROWS - 1) / ROWS) + row / ROWS;
        return block * (CAPACITY * ACROSS) + row % ROWS * OWNERS + owner;
    }
    // Where that list's length is stored.
    INFONCE_DEVICE static uint64_t length(uint32_t split, uint32_t rows, uint32_t row, uint32_t owner) {
        return (uint64_t(split) * rows + row) * OWNERS + owner;
    }
};

template <class Tile>
struct BestScores {
    static constexpr int BUFFERS = 1;
    static constexpr bool COLUMN_TERMS = false, WALKS = false;
    static_assert(Tile::ROW_BLOCKS == 1 && Tile::WARPS_ACROSS == 1, "a thread holds columns of two rows, four hold a row");
    // A thread's columns of a tile in each row. A list with FULL entries is pruned, as the next tile could fill it.
    static constexpr uint32_t COLUMNS = Tile::COLUMNS / BestLists::OWNERS;
    static constexpr uint32_t FULL = BestLists::CAPACITY - COLUMNS;
    // Blocks of eight columns that are compared together; a thread has two columns of each.
    static constexpr int GROUP = 2, GROUPS = Tile::COLUMN_BLOCKS / GROUP;
    // SHARE: entries of a row that a lane prunes. BATCH: entries that are loaded and counted without a branch between.
    static constexpr uint32_t SHARE = BestLists::CAPACITY / BestLists::ROWS, BATCH = 8;
    // Steps that halve the range of scores. Later steps halve the range of ranks; at most 64 of those suffice.
    static constexpr uint32_t SCORE_STEPS = 8;

    struct Row {
        ListedScore* end;  // where the next entry goes
        float bar;         // NaN: there is no bar yet, and every score is listed
        uint32_t columns;  // candidates of the row; 0 for padding rows
    };
    const ScoresParams& p;
    const Work work;
    const Place<Tile> place;
    Row rows[2];
    uint32_t seen = 0, due = 1;  // tiles so far; tiles after which all rows are pruned

    INFONCE_DEVICE BestScores(const ScoresParams& params, Work work_tile) : p(params), work(work_tile) {
        INFONCE_UNROLL
        for (int half = 0; half < 2; ++half) {
            const uint32_t row = row_of(half);
            const bool inside = row < p.anchors.rows;
            rows[half] = {global_pointer(p.lists) + BestLists::first(work.split, p.anchors.rows, row, owner()),
                          inside ? quiet_nan() : infinity(), inside ? p.candidates.rows : 0};
        }
    }

    // Before a tile a list has fewer than FULL entries, so it never has CAPACITY.
    INFONCE_DEVICE uint32_t length(const Row& row) const {
        return uint32_t(row.end - global_pointer(p.lists)) / BestLists::ACROSS % BestLists::CAPACITY;
    }
    INFONCE_DEVICE uint32_t row_of(int half) const { return work.tile * Tile::ROWS + place.row(0, half); }
    INFONCE_DEVICE uint32_t owner() const { return place.lane % BestLists::OWNERS; }

    INFONCE_DEVICE void tile(Logits<Tile>& logits, uint32_t first_column, SharedAddress) {
        INFONCE_UNROLL
        for (int half = 0; half < 2; ++half) {
            Row& row = rows[half];
            float largest[GROUPS], of_all;
            INFONCE_UNROLL
            for (int group = 0; group < GROUPS; ++group) {
                float& here = largest[group];
                INFONCE_UNROLL
                for (int j = group * GROUP; j < (group + 1) * GROUP; ++j) {
                    const float pair = larger_or_nan(logits.z[0][j][2 * half], logits.z[0][j][2 * half + 1]);
                    here = j == group * GROUP ? pair : larger_or_nan(here, pair);
                }
                of_all = group == 0 ? here : larger_or_nan(of_all, here);
            }
            // NaN is above every bar.
            if (of_all <= row.bar) continue;
            INFONCE_UNROLL
            for (int group = 0; group < GROUPS; ++group) {
                if (largest[group] <= row.bar) continue;
                INFONCE_UNROLL
                for (int j = group * GROUP; j < (group + 1) * GROUP; ++j)
                    INFONCE_UNROLL
                    for (int side = 0; side < 2; ++side)
                        append(row, logits.z[0][j][2 * half + side], first_column + place.column(j, side));
            }
        }
        ++seen;
        const bool full = warp_any(length(rows[0]) >= FULL || length(rows[1]) >= FULL);
        if (seen != due && !full) return;
        if (seen == due) due += (due * p.growth + 3) / 4;
        // All lanes see what others have listed.
        warp_barrier();
        for (uint32_t i = 0; i < 2 * BestLists::ROWS; ++i) {
            const bool second = i % 2 == 1;
            Row row = second ? rows[1] : rows[0];
            prune(row, i / 2);
            if (second) rows[1] = row;
            else rows[0] = row;
        }
        warp_barrier();
    }

    INFONCE_DEVICE static void append(Row& row, float score, uint32_t column) {
        if (score <= row.bar || column >= row.columns) return;
        store_global(global_pointer(row.end), ListedScore{score, column});
        row.end += BestLists::ACROSS;
    }

    // Prunes the r-th of the warp's eight rows of one half; `row` is the lane's own of the eight. Keeps k to 5k/4 + 4
    // entries, divided evenly among the row's lists. Executed by all lanes.
    INFONCE_DEVICE void prune(Row& row, uint32_t r) const {
        // Eight lanes share a list.
        const uint32_t group = place.lane / BestLists::OWNERS, own_length = this->length(row);
        uint32_t length = own_length;
        INFONCE_UNROLL
        for (uint32_t mask = BestLists::OWNERS; mask < BestLists::ACROSS; mask *= 2) {
            const uint32_t other = shuffle_xor(length, mask);
            if ((group ^ r) & mask / BestLists::OWNERS) length = other;
        }
        const uint32_t longest = warp_maximum(length);
        // A row with a full list has at least k entries: before the first bar its four lists are equally long, and each
        // bar leaves k.
        if (longest < FULL && warp_sum(length) / BestLists::ROWS < 2 * p.k) return;
        ListedScore* list = row.end - own_length * BestLists::ACROSS;
        ListedScore* lists = list - place.lane + r * BestLists::OWNERS;
        const ListedScore* from = lists + group * BestLists::ACROSS + owner();
        // Loads are all in flight before the first is waited for; then come the ranks. 0: no entry.
        uint64_t share[SHARE] = {};
        INFONCE_UNROLL
        for (uint32_t first = 0; first < SHARE; first += BATCH) {
            if (first * BestLists::ROWS >= longest) break;
            INFONCE_UNROLL
            for (uint32_t i = first; i < first + BATCH; ++i)
                if (group + i * BestLists::ROWS < length) {
                    const ListedScore* entry = from + i * BestLists::ROWS * BestLists::ACROSS;
                    share[i] = load_global(global_pointer(reinterpret_cast<const uint64_t*>(entry)));
                }
        }
        uint32_t best = 0, worst = 0;  // bits of scores; of `worst` the complement
        INFONCE_UNROLL
        for (uint32_t i = 0; i < SHARE; ++i) {
            if (group + i * BestLists::ROWS >= length) continue;
            share[i] = rank({bits_float(uint32_t(share[i])), uint32_t(share[i] >> 32)});
            const uint32_t score = uint32_t(share[i] >> 32);
            if (score > best) best = score;
            if (~score > worst) worst = ~score;
        }
        // At least k entries reach `low`, fewer reach `high`. Ranks are distinct, so some rank is reached by exactly k.
        const uint32_t enough = p.k + p.k / 4 + 4;
        uint64_t low = uint64_t(~warp_maximum(worst)) << 32, high = uint64_t(warp_maximum(best) + 1) << 32;
        uint32_t own = 0, reached = 0;
        for (uint32_t step = 0; reached < p.k || reached > enough; ++step) {
            uint64_t middle = low + (high - low) / 2;
            if (step < SCORE_STEPS) {
                const uint64_t mean = rank({0.5f * ranked(low).score + 0.5f * ranked(high).score, 0});
                if (mean > low && mean < high) middle = mean;
            }
            own = 0;
            INFONCE_UNROLL
            for (uint32_t first = 0; first < SHARE; first += BATCH) {
                if (first * BestLists::ROWS >= longest) break;
                INFONCE_UNROLL
                for (uint32_t i = first; i < first + BATCH; ++i) own += share[i] >= middle ? 1 : 0;
            }
            reached = warp_sum(own);
            if (reached < p.k) high = middle;
            else low = middle;
        }
        // Entries that lanes before this one keep.
        uint32_t to = 0;
        for (uint32_t mask = 1, sum = own; mask < 32; mask *= 2) {
            const uint32_t other = shuffle_xor(sum, mask);
            if (place.lane & mask) to += other;
            sum += other;
        }
        // All lanes have loaded before one stores.
        warp_barrier();
        INFONCE_UNROLL
        for (uint32_t first = 0; first < SHARE; first += BATCH) {
            if (first * BestLists::ROWS >= longest) break;
            INFONCE_UNROLL
            for (uint32_t i = first; i < first + BATCH; ++i) {
                if (share[i] < low) continue;
                ListedScore* entry = lists + to / BestLists::OWNERS * BestLists::ACROSS + to % BestLists::OWNERS;
                store_global(global_pointer(entry), ranked(share[i]));
                ++to;
            }
        }
        if (group != r) return;
        row.end = list + (reached + BestLists::OWNERS - 1 - owner()) / BestLists::OWNERS * BestLists::ACROSS;
        // A bar of NaN becomes ∞: nothing but NaN is above either.
        const float bar = ranked(low).score;
        row.bar = bar == bar ? bar : infinity();
    }

    INFONCE_DEVICE void write(SharedAddress) {
        INFONCE_UNROLL
        for (int half = 0; half < 2; ++half)
            if (rows[half].columns > 0)
                store_global(p.lengths + BestLists::length(work.split, p.anchors.rows, row_of(half), owner()),
                             length(rows[half]));
    }
};

}  // namespace infonce
