// Softmax weights of a chunk of rows, for dimensions that the fused gradient does not hold in
// registers: W_ij = 2^(z - lse_i) + 2^(z - lse_j), the positive's -σ, zero where excluded, times
// 2^shift, in the inputs' type. 2NMD FLOPs; product.cu multiplies them. The chunk is
// overwritten by the next one: the whole matrix is never stored.
#include "similarity/scores.h"

namespace infonce {

INFONCE_DEVICE void store_pair(bf16* to, float first, float second) {
    store_global(reinterpret_cast<uint32_t*>(to), pack_bf16(first, second));
}
INFONCE_DEVICE void store_pair(f16* to, float first, float second) {
    store_global(reinterpret_cast<uint32_t*>(to), pack_f16(first, second));
}
INFONCE_DEVICE void store_pair(float* to, float first, float second) {
    store_global(reinterpret_cast<Vector8*>(to), Vector8{{float_bits(first), float_bits(second)}});
}

INFONCE_DEVICE void store_pair(tf32* to, float first, float second) {
    store_pair(reinterpret_cast<float*>(to), first, second);
}

template <class T>
struct Weights {
    const ScoresParams& p;
    const Place place;
    float scale2;
    WeightShift shift;
    // Of the thread's rows.
    uint32_t row[ScoresTile::ROW_BLOCKS][2], positive[ScoresTile::ROW_BLOCKS][2], excluded[ScoresTile::ROW_BLOCKS][2];
    float row_lse2[ScoresTile::ROW_BLOCKS][2];

    INFONCE_DEVICE explicit Weights(const ScoresParams& params) : p(params) {
        scale2 = p.contrast.scale2();
        shift = weight_shift<T>(p.shift);
        INFONCE_UNROLL
        for (int i = 0; i < ScoresTile::ROW_BLOCKS; ++i) {
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                const uint32_t r = row[i][half] = block_index().x * ScoresTile::ROWS + place.row(i, half);
                const bool inside = r < p.anchors.rows;
                positive[i][half] = inside ? p.contrast.positive(p.first_anchor + r) : 0xffffffffu;
                excluded[i][half] = inside ? p.contrast.excluded(p.first_anchor + r) : 0xffffffffu;
                row_lse2[i][half] = inside ? load_global(p.row_lse2 + r) : infinity();
            }
        }
    }

    INFONCE_DEVICE void tile(Logits& logits, uint32_t first_column, SharedAddress) {
        INFONCE_UNROLL
        for (int j = 0; j < ScoresTile::COLUMN_BLOCKS; ++j) {
            const uint32_t c = first_column + place.column(j, 0);
            float lse2[2];
            INFONCE_UNROLL
            for (int side = 0; side < 2; ++side)
                lse2[side] = p.column_lse2 && c + side < p.candidates.rows ? load_global(p.column_lse2 + c + side) : infinity();
            INFONCE_UNROLL
            for (int i = 0; i < ScoresTile::ROW_BLOCKS; ++i) {
                INFONCE_UNROLL
                for (int half = 0; half < 2; ++half) {
                    const uint32_t r = row[i][half];
                    float pair[2];
                    INFONCE_UNROLL
                    for (int side = 0; side < 2; ++side) {
                        const float z = logits.z[i][j][2 * half + side] * scale2 + shift.shift;
                        float w = exp2_fast(z - row_lse2[i][half]) + exp2_fast(z - lse2[side]);
                        const bool inside = c + side < p.candidates.rows;
                        if (!inside || c + side == excluded[i][half]) {
                            w = 0.0f;
                        } else if (c + side == positive[i][half]) {
                            float sigma = load_global(p.row_sigma + r);
                            if (p.column_sigma) sigma += load_global(p.column_sigma + c + side);
                            w = -shift.factor * sigma;
                        }
                        pair[side] = w;
                    }
                    if (r < p.anchors.rows && c < p.weights_stride)
                        store_pair(static_cast<T*>(p.weights) + uint64_t(r) * p.weights_stride + c, pair[0], pair[1]);
                }
            }
        }
    }
};

#define INFONCE_WEIGHTS(NAME, T)                                                  \
    INFONCE_KERNEL(weights_##NAME, ScoresParams, ScoresTile::THREADS, 1) {        \
        Weights<T> epilogue(p);                                                   \
        score_tiles<T>(p, epilogue);                                              \
    }

INFONCE_WEIGHTS(bf16, bf16)
INFONCE_WEIGHTS(f16, f16)
INFONCE_WEIGHTS(f32, float)
INFONCE_WEIGHTS(tf32, tf32)

}  // namespace infonce
