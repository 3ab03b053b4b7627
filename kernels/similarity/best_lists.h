// The epilogue that keeps of every row what may be among its k best: lists of scores above a bar that rises, in
// place of all scores. A row's lists take 8 KB a split; its scores are 4M bytes, to be written and read.
//
// The four threads of a warp that hold a row have a list each, to which a tile appends what is above the bar. A row
// with a list that the next tile could overflow is pruned by its warp: bisection finds a bar that k to 5k/4 + 4
// entries reach, or else the k-th best itself, and what does not reach it is dropped. No other warp has the row, so
// there are no atomics. The order is that of `rank` in top_k.cu: NaN first, then larger scores, then smaller
// indices. Later columns have larger indices, so they have to be above the bar.
//
// How often: once t tiles have been seen, k to 5k/4 + 4 columns are above the bar, and about k/t of every further
// tile. A row is pruned when 768 are listed: at t = 3, and each time that t has grown by 768/k - 1. With M = 32,768
// that is once for k = 10, twice for k = 64, four times for k = 200.
//
// What it costs, modelled from the instructions of sm_90a: a warp finds the maxima of a tile in 300 clocks of its
// scheduler, which has two such warps and 16·D clocks of products; that is all where nothing is above the bar. For
// every block of four by two columns of which one of its 32 threads has one above, 50 to 100 more. Pruning a row
// is about 2,000.
#pragma once

#include "similarity/scores.h"

namespace infonce {

struct ListedScore {
    float score;
    uint32_t index;
};

// Order of candidates: NaN first, then larger scores, then smaller indices; as one number that
// falls. A score's bits, made monotonic, above the index's complement.
INFONCE_DEVICE uint64_t rank(ListedScore of) {
    const uint32_t bits = float_bits(of.score == 0.0f ? 0.0f : of.score);
    const uint32_t ordered = of.score != of.score ? 0xfffffffeu : (bits & 0x80000000u ? ~bits : bits | 0x80000000u);
    return uint64_t(ordered) << 32 | (0xffffffffu - of.index);
}
// What has this rank, but for the sign of 0 and the bits of NaN.
INFONCE_DEVICE ListedScore ranked(uint64_t rank) {
    const uint32_t ordered = uint32_t(rank >> 32);
    return {bits_float(ordered & 0x80000000u ? ordered ^ 0x80000000u : ~ordered), 0xffffffffu - uint32_t(rank)};
}
INFONCE_DEVICE uint64_t shuffle_xor(uint64_t x, int mask) {
    return uint64_t(shuffle_xor(uint32_t(x >> 32), mask)) << 32 | shuffle_xor(uint32_t(x), mask);
}
INFONCE_DEVICE uint64_t larger(uint64_t a, uint64_t b) { return b > a ? b : a; }
// The same in every lane.
INFONCE_DEVICE uint64_t warp_largest(uint64_t x) {
    for (int mask = 16; mask > 0; mask /= 2) x = larger(x, shuffle_xor(x, mask));
    return x;
}

// Lists of a launch: for every split and eight rows, entry by entry, those of 32 threads side by side.
struct BestLists {
    static constexpr uint32_t CAPACITY = 256, ROWS = 8, ACROSS = 32;
    static constexpr uint32_t OWNERS = ACROSS / ROWS;  // threads that hold a row

    // The first entry of the list of `row` and its thread `owner`; the next one is ACROSS entries away.
    INFONCE_DEVICE static uint64_t first(uint32_t split, uint32_t rows, uint32_t row, uint32_t owner) {
        const uint64_t block = uint64_t(split) * ((rows + ROWS - 1) / ROWS) + row / ROWS;
        return block * (CAPACITY * ACROSS) + row % ROWS * OWNERS + owner;
    }
    // Where its length stands.
    INFONCE_DEVICE static uint64_t length(uint32_t split, uint32_t rows, uint32_t row, uint32_t owner) {
        return (uint64_t(split) * rows + row) * OWNERS + owner;
    }
};

template <class Tile>
struct BestScores {
    static constexpr int ROOMS = 1;
    static_assert(Tile::ROW_BLOCKS == 1 && Tile::WARPS_ACROSS == 1, "a thread holds columns of two rows, four hold a row");
    // Columns of a tile that a thread has of a row; the most entries that leave enough free for them.
    static constexpr uint32_t COLUMNS = Tile::COLUMNS / BestLists::OWNERS;
    static constexpr uint32_t FULL = BestLists::CAPACITY - COLUMNS;
    // Blocks of eight columns, of which a thread has two, that are looked at together.
    static constexpr int GROUP = 4, GROUPS = Tile::COLUMN_BLOCKS / GROUP;
    // Entries of a row that a lane prunes, and how many of them are loaded and counted without a question between.
    static constexpr uint32_t SHARE = BestLists::CAPACITY / BestLists::ROWS, BATCH = 8;
    // Steps that halve the range of scores; those after them halve the ranks between, so there are 64 at most.
    static constexpr uint32_t SCORE_STEPS = 8;

    struct Row {
        ListedScore* end;  // where the next entry goes
        float bar;         // NaN: everything is above it
        uint32_t columns;  // that the row sees: none past the last row
    };
    const ScoresParams& p;
    const Work work;
    const Place<Tile> place;
    Row rows[2];

    INFONCE_DEVICE BestScores(const ScoresParams& params, Work piece) : p(params), work(piece) {
        INFONCE_UNROLL
        for (int half = 0; half < 2; ++half) {
            const uint32_t row = row_of(half);
            rows[half] = {global_pointer(p.lists) + BestLists::first(work.part, p.anchors.rows, row, owner()),
                          quiet_nan(), row < p.anchors.rows ? p.candidates.rows : 0};
        }
    }

    // A tile finds fewer than FULL entries, so a list never ends where the next block of lists begins.
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
        const uint32_t full[2] = {warp_ballot(length(rows[0]) >= FULL), warp_ballot(length(rows[1]) >= FULL)};
        if ((full[0] | full[1]) == 0) return;
        // All see what others have listed.
        warp_barrier();
        for (uint32_t i = 0; i < 2 * BestLists::ROWS; ++i) {
            const uint32_t r = i / 2, owners = ((1u << BestLists::OWNERS) - 1) << r * BestLists::OWNERS;
            const bool second = i % 2 == 1;
            if (((second ? full[1] : full[0]) & owners) == 0) continue;
            Row row = second ? rows[1] : rows[0];
            prune(row, r);
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

    // Row `r` of the eight that `row` stands for in this warp: k to 5k/4 + 4 entries are left, divided evenly among
    // its lists. A list is full, so there are more. By all lanes.
    INFONCE_DEVICE void prune(Row& row, uint32_t r) const {
        // Eight lanes share a list.
        const uint32_t group = place.lane / BestLists::OWNERS;
        const uint32_t own_length = this->length(row);
        uint32_t length = own_length;
        INFONCE_UNROLL
        for (uint32_t mask = BestLists::OWNERS; mask < BestLists::ACROSS; mask *= 2) {
            const uint32_t other = shuffle_xor(length, mask);
            if ((group ^ r) & mask / BestLists::OWNERS) length = other;
        }
        uint32_t longest = length;
        INFONCE_UNROLL
        for (uint32_t mask = 1; mask < BestLists::OWNERS; mask *= 2) {
            const uint32_t other = shuffle_xor(longest, mask);
            longest = other > longest ? other : longest;
        }
        ListedScore* list = row.end - own_length * BestLists::ACROSS;
        ListedScore* lists = list - place.lane + r * BestLists::OWNERS;
        const ListedScore* from = lists + group * BestLists::ACROSS + owner();
        uint64_t share[SHARE] = {};  // ranks; 0: none
        uint64_t best = 0, worst = 0;
        INFONCE_UNROLL
        for (uint32_t first = 0; first < SHARE; first += BATCH) {
            if (first * BestLists::ROWS >= longest) break;
            INFONCE_UNROLL
            for (uint32_t i = first; i < first + BATCH; ++i) {
                if (group + i * BestLists::ROWS < length)
                    share[i] = rank(load_global(from + i * BestLists::ROWS * BestLists::ACROSS));
                best = larger(best, share[i]);
                if (share[i] != 0) worst = larger(worst, ~share[i]);
            }
        }
        // k entries or more reach `low`; fewer reach `high`. Ranks differ, so there is one that k reach.
        const uint32_t enough = p.k + p.k / 4 + 4;
        uint64_t low = ~warp_largest(worst), high = warp_largest(best) + 1;
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
        // What lanes before this one keep.
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
                store_global(global_pointer(lists) + to / BestLists::OWNERS * BestLists::ACROSS + to % BestLists::OWNERS, ranked(share[i]));
                ++to;
            }
        }
        if (group != r) return;
        row.end = list + (reached + BestLists::OWNERS - 1 - owner()) / BestLists::OWNERS * BestLists::ACROSS;
        // No number is above NaN, or above ∞.
        const float bar = ranked(low).score;
        row.bar = bar == bar ? bar : infinity();
    }

    INFONCE_DEVICE void write(SharedAddress) {
        INFONCE_UNROLL
        for (int half = 0; half < 2; ++half)
            if (rows[half].columns > 0)
                store_global(p.lengths + BestLists::length(work.part, p.anchors.rows, row_of(half), owner()),
                             length(rows[half]));
    }
};

}  // namespace infonce
