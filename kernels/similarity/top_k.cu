// The k largest ⟨q_i, k_j⟩ of every row: select_best takes them from a chunk's scores, which the tile loop has stored
// (2NMD FLOPs); select_listed from the lists of hopper_best (best_lists.h). The next chunk overwrites both.
#include "similarity/best_lists.h"
#include "similarity/store_scores.h"

namespace infonce {

#define INFONCE_BUILD(KERNEL, ...)                       \
    INFONCE_KERNEL(KERNEL, ScoresParams) {               \
        Scores<ScoresTile> epilogue(p, work_of_block()); \
        score_tiles<list::KERNEL>(p, epilogue);          \
    }

INFONCE_TILE(INFONCE_BUILD, scores)

struct SelectParams {
    const float* scores;  // rows of the chunk × candidates
    uint32_t rows, candidates, k;
    uint32_t first_row;   // of the chunk, among all rows
    uint32_t excludes_self;
    uint32_t* indices;    // rows × k, best first
    float* best;          // rows × k, their scores
};

struct SelectListedParams {
    const ListedScore* lists;  // best_lists.h
    const uint32_t* lengths;
    uint32_t rows, splits, k;
    uint32_t first_row;   // of the chunk, among all rows
    uint32_t excludes_self;
    uint32_t lanes_log2;  // log2 of the lanes that share a list, 0 to 3
    uint32_t* indices;    // rows × k, best first
    float* best;          // rows × k, their scores
};

INFONCE_DEVICE uint64_t warp_largest(uint64_t x) {
    for (int mask = 16; mask > 0; mask /= 2) {
        const uint64_t other = uint64_t(shuffle_xor(uint32_t(x >> 32), mask)) << 32 | shuffle_xor(uint32_t(x), mask);
        x = other > x ? other : x;
    }
    return x;
}

constexpr int SELECT_WARPS = list::select_best::THREADS / 32;
static_assert(list::select_listed::THREADS == list::select_best::THREADS);
// Best candidates that a lane keeps. It scans its scores again only when all KEPT have been taken.
constexpr int KEPT = 8;

INFONCE_DEVICE uint32_t row_of_warp() { return block_index().x * SELECT_WARPS + thread_index() / 32; }

// The k best of a warp's row, one after another: compares the lanes' best; the winner's lane advances to its next.
// `scan(see)` calls `see` with each of the lane's candidates.
template <class Scan>
INFONCE_DEVICE void select(uint32_t k, uint32_t* indices, float* best, const Scan& scan) {
    uint64_t kept[KEPT];  // descending; 0: none
    auto find_below = [&](uint64_t bound) {
        INFONCE_UNROLL
        for (int i = 0; i < KEPT; ++i) kept[i] = 0;
        scan([&](ListedScore seen) {
            uint64_t candidate = rank(seen);
            if (candidate >= bound || candidate <= kept[KEPT - 1]) return;
            INFONCE_UNROLL
            for (int i = 0; i < KEPT; ++i) {
                const uint64_t here = kept[i];
                kept[i] = candidate > here ? candidate : here;
                candidate = candidate > here ? here : candidate;
            }
        });
    };
    find_below(~uint64_t(0));
    bool more = kept[KEPT - 1] != 0;
    for (uint32_t place = 0; place < k; ++place) {
        const uint64_t winner = warp_largest(kept[0]);
        if (kept[0] != winner) continue;
        const uint64_t to = uint64_t(row_of_warp()) * k + place;
        const ListedScore won = ranked(winner);
        store_global(indices + to, won.index);
        store_global(best + to, won.score);
        INFONCE_UNROLL
        for (int i = 0; i + 1 < KEPT; ++i) kept[i] = kept[i + 1];
        kept[KEPT - 1] = 0;
        if (kept[0] == 0 && more && place + 1 < k) {
            find_below(winner);
            more = kept[KEPT - 1] != 0;
        }
    }
}

INFONCE_KERNEL(select_best, SelectParams) {
    const uint32_t row = row_of_warp();
    if (row >= p.rows) return;
    const float* scores = p.scores + uint64_t(row) * p.candidates;
    const uint32_t excluded = p.excludes_self ? p.first_row + row : 0xffffffffu;
    select(p.k, p.indices, p.best, [&](const auto& see) {
        for (uint32_t j = thread_index() % 32; j < p.candidates; j += 32)
            if (j != excluded) see({load_global(scores + j), j});
    });
}

// The k best entries of a row's lists. Eight groups of four lanes share the splits; with fewer splits than groups,
// several groups share one split.
INFONCE_KERNEL(select_listed, SelectListedParams) {
    const uint32_t row = row_of_warp();
    if (row >= p.rows) return;
    const uint32_t owner = thread_index() % BestLists::OWNERS, group = thread_index() % 32 / BestLists::OWNERS;
    const uint32_t lanes = 1u << p.lanes_log2;
    const uint32_t excluded = p.excludes_self ? p.first_row + row : 0xffffffffu;
    select(p.k, p.indices, p.best, [&](const auto& see) {
        for (uint32_t split = group >> p.lanes_log2; split < p.splits; split += BestLists::ROWS >> p.lanes_log2) {
            const ListedScore* list = p.lists + BestLists::first(split, p.rows, row, owner);
            const uint32_t length = load_global(p.lengths + BestLists::length(split, p.rows, row, owner));
            for (uint32_t i = group % lanes; i < length; i += lanes) {
                const ListedScore entry = load_global(list + i * BestLists::ACROSS);
                if (entry.index != excluded) see(entry);
            }
        }
    });
}

}  // namespace infonce
