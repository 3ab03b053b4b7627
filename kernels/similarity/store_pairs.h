// Stores a tile of weights or exponentials from registers: each thread stores its entries, two neighbours at a time.
#pragma once

#include "similarity/anchor_rows.h"

namespace infonce {

INFONCE_DEVICE void store_two(bf16* to, float first, float second) {
    store_global(reinterpret_cast<uint32_t*>(to), pack_bf16(first, second));
}
INFONCE_DEVICE void store_two(f16* to, float first, float second) {
    store_global(reinterpret_cast<uint32_t*>(to), pack_f16(first, second));
}
INFONCE_DEVICE void store_two(float* to, float first, float second) {
    store_global(reinterpret_cast<Vector8*>(to), Vector8{{float_bits(first), float_bits(second)}});
}
INFONCE_DEVICE void store_two(tf32* to, float first, float second) {
    store_two(reinterpret_cast<float*>(to), first, second);
}

// Blocks of eight columns that are stored together.
constexpr int STORED_BLOCKS = 8;

template <class T, class Tile>
struct PairStores {
    INFONCE_DEVICE explicit PairStores(const ScoresParams&) {}

    // Stores STORED_BLOCKS blocks of a thread's columns, from block `first` on.
    INFONCE_DEVICE void store(const AnchorRows<Tile>& rows, const Logits<Tile>& weights, uint32_t first_column, int first,
                              SharedAddress) {
        const ScoresParams& p = rows.p;
        INFONCE_UNROLL
        for (int j = first; j < first + STORED_BLOCKS; ++j) {
            const uint32_t c = first_column + rows.place.column(j, 0);
            INFONCE_UNROLL
            for (int i = 0; i < Tile::ROW_BLOCKS; ++i)
                INFONCE_UNROLL
                for (int half = 0; half < 2; ++half)
                    if (rows.inside(i, half) && c * sizeof(T) < p.weights.row_bytes)
                        store_two(reinterpret_cast<T*>(p.weights.byte_at(rows.row[i][half], c * sizeof(T))),
                                  weights.z[i][j][2 * half], weights.z[i][j][2 * half + 1]);
        }
    }

    INFONCE_DEVICE void finish() {}
};

}  // namespace infonce
