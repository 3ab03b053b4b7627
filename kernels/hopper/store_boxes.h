// Stores a tile of 16-bit weights or exponentials on sm_90a: a warp writes boxes of 16 rows × 64 elements (128 bytes)
// through shared memory. Two boxes of a warp are in flight.
#pragma once

#include "hopper/scores.h"
#include "ptx/async_proxy.h"
#include "ptx/stmatrix.h"
#include "ptx/tensor_store.h"
#include "similarity/store_pairs.h"

namespace infonce {

template <class T, class Tile>
struct BoxStores {
    static_assert(Tile::ROW_BLOCKS == 1 && Tile::WARPS_ACROSS == 1, "a warp has 16 whole rows of the tile");
    static_assert(STORED_BLOCKS * 8 == SLAB_ELEMENTS, "a box's columns");
    static_assert(Tile::COLUMN_BLOCKS / STORED_BLOCKS % 2 == 0, "a tile ends with the second of two stages");
    const TensorMap& map;

    template <class Params>
    INFONCE_DEVICE explicit BoxStores(const Params& params) : map(params.weights) {
        if (thread_index() == 0) prefetch_map(map);
    }

    INFONCE_DEVICE void store(const AnchorRows<Tile>& rows, const Logits<Tile>& weights, uint32_t first_column, int first,
                              SharedAddress buffer) {
        const uint32_t lane = rows.place.lane, warp = rows.place.warp_row, row = lane % 16;
        const SharedAddress stage = buffer + (2 * warp + first / STORED_BLOCKS % 2) * Tile::WEIGHTS_BOX;
        wait_stores_read<1>();
        warp_barrier();
        INFONCE_UNROLL
        for (int j = 0; j < STORED_BLOCKS; j += 2) {
            const auto& left = weights.z[0][first + j];
            const auto& right = weights.z[0][first + j + 1];
            const uint32_t r[4] = {Element<T>::pack(left[0], left[1]), Element<T>::pack(left[2], left[3]),
                                   Element<T>::pack(right[0], right[1]), Element<T>::pack(right[2], right[3])};
            store_matrices(stage + row * SLAB_BYTES + ((j + lane / 16) ^ row % 8) * 16, r);
        }
        fence_async_proxy();
        warp_barrier();
        if (lane == 0) {
            store_box(map, first_column + first * 8, rows.work.tile * Tile::ROWS + warp * Tile::WARP_ROWS, stage);
            commit_stores();
        }
    }

    // Called before the thread ends or the buffer is used for something else.
    INFONCE_DEVICE void finish() { wait_stores_read<0>(); }
};

}  // namespace infonce
