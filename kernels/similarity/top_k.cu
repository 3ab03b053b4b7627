// The k largest ⟨q_i, k_j⟩ of every row. Scores of a chunk of rows are computed by the tile loop
// (2NMD FLOPs) and selected from before the next chunk overwrites them.
#include "similarity/store_scores.h"

namespace infonce {

#define INFONCE_SCORES(NAME, T)                                           \
    INFONCE_KERNEL(scores_##NAME, ScoresParams, ScoresTile::THREADS, 1) { \
        Scores<ScoresTile> epilogue(p, work_of_block());                  \
        score_tiles<T>(p, epilogue);                                      \
    }

INFONCE_SCORES(bf16, bf16)
INFONCE_SCORES(f16, f16)
INFONCE_SCORES(f32, float)
INFONCE_SCORES(tf32, tf32)

struct SelectParams {
    const float* scores;  // rows of the chunk × candidates
    uint32_t rows, candidates, k;
    uint32_t first_row;   // of the chunk, among all rows
    uint32_t excludes_self;
    uint32_t* indices;    // rows × k
    float* best;          // rows × k
};

// Order of candidates: NaN first, then larger scores, then smaller indices; as one number that
// falls. A score's bits, made monotonic, above the index's complement.
INFONCE_DEVICE uint64_t rank(float score, uint32_t index) {
    const uint32_t bits = float_bits(score == 0.0f ? 0.0f : score);
    const uint32_t ordered = score != score ? 0xfffffffeu : (bits & 0x80000000u ? ~bits : bits | 0x80000000u);
    return uint64_t(ordered) << 32 | (0xffffffffu - index);
}

INFONCE_DEVICE uint64_t warp_largest(uint64_t x) {
    for (int mask = 16; mask > 0; mask /= 2) {
        const uint64_t other = uint64_t(shuffle_xor(uint32_t(x >> 32), mask)) << 32 | shuffle_xor(uint32_t(x), mask);
        x = other > x ? other : x;
    }
    return x;
}

constexpr int SELECT_WARPS = 4;
// Candidates that a lane keeps: it scans its scores again only when all of them have been taken.
constexpr int KEPT = 8;

// A warp a row: the lanes' best are compared, the winner's lane goes on with its next.
INFONCE_KERNEL(select_best, SelectParams, SELECT_WARPS * 32, 1) {
    const uint32_t row = block_index().x * SELECT_WARPS + thread_index() / 32;
    const uint32_t lane = thread_index() % 32;
    if (row >= p.rows) return;
    const float* scores = p.scores + uint64_t(row) * p.candidates;
    const uint32_t excluded = p.excludes_self ? p.first_row + row : 0xffffffffu;
    uint64_t kept[KEPT];  // falling; 0: none
    auto find_below = [&](uint64_t bound) {
        INFONCE_UNROLL
        for (int i = 0; i < KEPT; ++i) kept[i] = 0;
        for (uint32_t j = lane; j < p.candidates; j += 32) {
            if (j == excluded) continue;
            uint64_t candidate = rank(load_global(scores + j), j);
            if (candidate >= bound || candidate <= kept[KEPT - 1]) continue;
            INFONCE_UNROLL
            for (int i = 0; i < KEPT; ++i) {
                const uint64_t here = kept[i];
                kept[i] = candidate > here ? candidate : here;
                candidate = candidate > here ? here : candidate;
            }
        }
    };
    find_below(~uint64_t(0));
    bool more = kept[KEPT - 1] != 0;
    for (uint32_t place = 0; place < p.k; ++place) {
        const uint64_t winner = warp_largest(kept[0]);
        if (kept[0] != winner) continue;
        const uint32_t index = 0xffffffffu - uint32_t(winner);
        const uint64_t to = uint64_t(row) * p.k + place;
        store_global(p.indices + to, index);
        store_global(p.best + to, load_global(scores + index));
        INFONCE_UNROLL
        for (int i = 0; i + 1 < KEPT; ++i) kept[i] = kept[i + 1];
        kept[KEPT - 1] = 0;
        if (kept[0] == 0 && more && place + 1 < p.k) {
            find_below(winner);
            more = kept[KEPT - 1] != 0;
        }
    }
}

}  // namespace infonce
