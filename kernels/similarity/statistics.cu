// Row statistics, and column statistics where columns have a loss, of logits that are never stored:
// 2NMD FLOPs. Partial sums of exponentials go to global memory, one per row and split, one per
// column and anchor tile; combine_statistics of rows.cu adds them up in index order.
#include "similarity/scores.h"

namespace infonce {

struct Statistics {
    const ScoresParams& p;
    const Place place;
    float scale2;
    uint32_t row[ScoresTile::ROW_BLOCKS][2];  // among the chunk's rows
    uint32_t positive[ScoresTile::ROW_BLOCKS][2], excluded[ScoresTile::ROW_BLOCKS][2];
    ScaledSum sums[ScoresTile::ROW_BLOCKS][2];

    INFONCE_DEVICE explicit Statistics(const ScoresParams& params) : p(params) {
        scale2 = p.contrast.scale2();
        INFONCE_UNROLL
        for (int i = 0; i < ScoresTile::ROW_BLOCKS; ++i) {
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                row[i][half] = block_index().x * ScoresTile::ROWS + place.row(i, half);
                const bool inside = row[i][half] < p.anchors.rows;
                const uint32_t anchor = p.first_anchor + row[i][half];
                positive[i][half] = inside ? p.contrast.positive(anchor) : 0xffffffffu;
                excluded[i][half] = inside ? p.contrast.excluded(anchor) : 0xffffffffu;
                sums[i][half] = empty_sum();
            }
        }
    }

    INFONCE_DEVICE void tile(Logits& logits, uint32_t first_column, SharedAddress free_stage) {
        INFONCE_UNROLL
        for (int i = 0; i < ScoresTile::ROW_BLOCKS; ++i) {
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                float maximum = -infinity();
                INFONCE_UNROLL
                for (int j = 0; j < ScoresTile::COLUMN_BLOCKS; ++j) {
                    INFONCE_UNROLL
                    for (int side = 0; side < 2; ++side) {
                        float& z = logits.z[i][j][2 * half + side];
                        const uint32_t c = first_column + place.column(j, side);
                        z *= scale2;
                        // Rows past the last must not enter the columns' sums either.
                        if (c >= p.candidates.rows || row[i][half] >= p.anchors.rows || c == positive[i][half] ||
                            c == excluded[i][half])
                            z = -infinity();
                        maximum = larger(maximum, z);
                    }
                }
                ScaledSum tile_sum = {maximum, 0.0f};
                const float offset = finite_offset(maximum);
                INFONCE_UNROLL
                for (int j = 0; j < ScoresTile::COLUMN_BLOCKS; ++j)
                    INFONCE_UNROLL
                    for (int side = 0; side < 2; ++side)
                        tile_sum.sum += exp2_fast(logits.z[i][j][2 * half + side] - offset);
                sums[i][half] = combine(sums[i][half], tile_sum);
            }
        }
        if (p.columns) columns(logits, first_column, free_stage);
    }

    // `exchange`: room for a partial sum of every column from every warp row.
    INFONCE_DEVICE void columns(const Logits& logits, uint32_t first_column, SharedAddress exchange) {
        // Other warps may still multiply what lies there.
        block_barrier();
        INFONCE_UNROLL
        for (int j = 0; j < ScoresTile::COLUMN_BLOCKS; ++j) {
            INFONCE_UNROLL
            for (int side = 0; side < 2; ++side) {
                ScaledSum sum = {-infinity(), 0.0f};
                INFONCE_UNROLL
                for (int i = 0; i < ScoresTile::ROW_BLOCKS; ++i)
                    INFONCE_UNROLL
                    for (int half = 0; half < 2; ++half) {
                        const float z = logits.z[i][j][2 * half + side];
                        sum.maximum = larger(sum.maximum, z);
                    }
                // Over the eight threads that hold the warp's other rows of this column: the maximum
                // first, so that the sums are sums.
                INFONCE_UNROLL
                for (int mask = 4; mask <= 16; mask *= 2) sum.maximum = larger(sum.maximum, shuffle_xor(sum.maximum, mask));
                const float offset = finite_offset(sum.maximum);
                INFONCE_UNROLL
                for (int i = 0; i < ScoresTile::ROW_BLOCKS; ++i)
                    INFONCE_UNROLL
                    for (int half = 0; half < 2; ++half) sum.sum += exp2_fast(logits.z[i][j][2 * half + side] - offset);
                INFONCE_UNROLL
                for (int mask = 4; mask <= 16; mask *= 2) sum.sum += shuffle_xor(sum.sum, mask);
                if (place.lane < 4)
                    store_shared(exchange + (place.warp_row * ScoresTile::COLUMNS + place.column(j, side)) *
                                                int(sizeof(ScaledSum)),
                                 sum);
            }
        }
        block_barrier();
        const uint32_t c = thread_index();
        if (c < ScoresTile::COLUMNS && first_column + c < p.candidates.rows) {
            ScaledSum sum = empty_sum();
            INFONCE_UNROLL
            for (int warp_row = 0; warp_row < 4; ++warp_row)
                sum = combine(sum, load_shared<ScaledSum>(exchange + (warp_row * ScoresTile::COLUMNS + int(c)) *
                                                                         int(sizeof(ScaledSum))));
            store_global(p.columns + uint64_t(block_index().x) * p.candidates.rows + first_column + c, sum);
        }
        // The next tile's first barrier lies before anything is written here again.
    }

    // The same bits in both threads: the one of the lower lane comes first.
    INFONCE_DEVICE ScaledSum combine_ordered(ScaledSum own, ScaledSum other, int mask) const {
        const bool second = place.lane & mask;
        return combine(second ? other : own, second ? own : other);
    }

    INFONCE_DEVICE void write() {
        // The two warps of a row meet in shared memory; all copies have arrived.
        block_barrier();
        const SharedAddress exchange = shared_base();
        INFONCE_UNROLL
        for (int i = 0; i < ScoresTile::ROW_BLOCKS; ++i) {
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                ScaledSum sum = sums[i][half];
                INFONCE_UNROLL
                for (int mask = 1; mask <= 2; mask *= 2)
                    sum = combine_ordered(sum, {shuffle_xor(sum.maximum, mask), shuffle_xor(sum.sum, mask)}, mask);
                if (place.lane % 4 == 0)
                    store_shared(exchange + (place.warp_column * ScoresTile::ROWS + place.row(i, half)) *
                                                int(sizeof(ScaledSum)),
                                 sum);
            }
        }
        block_barrier();
        const uint32_t r = thread_index();
        const uint32_t chunk_row = block_index().x * ScoresTile::ROWS + r;
        if (r < ScoresTile::ROWS && chunk_row < p.anchors.rows) {
            const ScaledSum left = load_shared<ScaledSum>(exchange + int(r * sizeof(ScaledSum)));
            const ScaledSum right = load_shared<ScaledSum>(exchange + int((ScoresTile::ROWS + r) * sizeof(ScaledSum)));
            store_global(p.rows + uint64_t(block_index().y) * p.anchors.rows + chunk_row, combine(left, right));
        }
    }
};

#define INFONCE_STATISTICS(NAME, T)                                                        \
    INFONCE_KERNEL(statistics_##NAME, ScoresParams, ScoresTile::THREADS, 1) {              \
        Statistics epilogue(p);                                                            \
        score_tiles<T>(p, epilogue);                                                       \
        epilogue.write();                                                                  \
    }

INFONCE_STATISTICS(bf16, bf16)
INFONCE_STATISTICS(f16, f16)
INFONCE_STATISTICS(f32, float)
INFONCE_STATISTICS(tf32, tf32)

}  // namespace infonce
