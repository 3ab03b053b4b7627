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

template <class T>
struct Weights {
    const ScoresParams& p;
    const Place place;
    float scale2;
    WeightShift shift;

    INFONCE_DEVICE explicit Weights(const ScoresParams& params) : p(params) {
        scale2 = p.contrast.scale2();
        shift = weight_shift<T>(p.shift);
    }

    INFONCE_DEVICE void tile(Logits& logits, uint32_t first_column) {
        INFONCE_UNROLL
        for (int i = 0; i < ScoresTile::ROW_BLOCKS; ++i) {
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                const uint32_t row = block_index().x * ScoresTile::ROWS + place.row(i, half);
                if (row >= p.anchors.rows) continue;
                const uint32_t anchor = p.first_anchor + row;
                const uint32_t positive = p.contrast.positive(anchor), excluded = p.contrast.excluded(anchor);
                const float row_lse2 = load_global(p.row_lse2 + row), row_sigma = load_global(p.row_sigma + row);
                T* const to = static_cast<T*>(p.weights) + uint64_t(row) * p.weights_stride;
                INFONCE_UNROLL
                for (int j = 0; j < ScoresTile::COLUMN_BLOCKS; ++j) {
                    float pair[2];
                    INFONCE_UNROLL
                    for (int side = 0; side < 2; ++side) {
                        const uint32_t c = first_column + place.column(j, side);
                        const bool inside = c < p.candidates.rows;
                        const float z = logits.z[i][j][2 * half + side] * scale2 + shift.shift;
                        float w = exp2_fast(z - row_lse2), sigma = row_sigma;
                        if (p.column_lse2 && inside) {
                            w += exp2_fast(z - load_global(p.column_lse2 + c));
                            sigma += load_global(p.column_sigma + c);
                        }
                        if (c == positive) w = -shift.factor * sigma;
                        pair[side] = inside && c != excluded ? w : 0.0f;
                    }
                    const uint32_t c = first_column + place.column(j, 0);
                    if (c < p.weights_stride) store_pair(to + c, pair[0], pair[1]);
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

}  // namespace infonce
