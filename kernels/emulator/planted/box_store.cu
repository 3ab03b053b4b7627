// Copies a matrix of 16-bit elements, 32 rows × 64 columns at a time: two warps write a box to shared memory, one
// thread stores it, two boxes in flight. Planted: the elements are stored with no fence; only the issuing thread
// fences; the source is overwritten while it may still be read; a thread ends before its sources have been read, or
// with a store in no group; the matrix is read in the same launch, possibly before it is written.
#include "ptx/async_proxy.h"
#include "ptx/barrier.h"
#include "ptx/global.h"
#include "ptx/kernel.h"
#include "ptx/shared.h"
#include "ptx/stmatrix.h"
#include "ptx/tensor_store.h"

namespace infonce {

struct BoxStoreParams {
    TensorMap to;        // boxes of 32 rows
    const uint16_t* from;
    const uint16_t* there;  // the matrix of `to`
    uint16_t* seen;         // early_read: what each thread of the first block reads there
    uint32_t rows, columns, stride;  // elements from row to row
};

enum class StorePlanted { NOTHING, FENCE, FENCE_OF_ONE, OVERWRITE, ENDS_EARLY, NO_COMMIT, EARLY_READ };

constexpr uint32_t STORE_BOX = 32 * 128, STORE_BOX_ROWS = 32, STORE_BOX_NUMBERS = 64;

INFONCE_DEVICE uint32_t number_of(const BoxStoreParams& p, uint32_t row, uint32_t column) {
    return row < p.rows && column < p.columns ? load_global(p.from + row * p.stride + column) : 0xeeee;
}

template <StorePlanted PLANTED>
INFONCE_DEVICE void store_boxes(const BoxStoreParams& p) {
    const uint32_t lane = thread_index() % 32, warp = thread_index() / 32;
    const uint32_t first_row = block_index().x * STORE_BOX_ROWS;
    // Matrices 0 and 1 are one above the other, 2 and 3 to their right.
    const uint32_t own_row = warp * 16 + lane % 16, own_chunk = lane / 16;
    uint32_t box = 0;
    for (uint32_t column = 0; column < p.columns; column += STORE_BOX_NUMBERS, ++box) {
        const SharedAddress stage = shared_base() + box % 2 * STORE_BOX;
        if (PLANTED != StorePlanted::OVERWRITE) wait_stores_read<1>();
        block_barrier();
        for (uint32_t pair = 0; pair < 4; ++pair) {
            uint32_t r[4];
            for (uint32_t i = 0; i < 4; ++i) {
                const uint32_t row = first_row + warp * 16 + i % 2 * 8, c = column + pair * 16 + i / 2 * 8;
                const uint32_t along = lane % 4 * 2, other = lane / 4;
                r[i] = number_of(p, row + other, c + along) | number_of(p, row + other, c + along + 1) << 16;
            }
            store_matrices(stage + own_row * 128 + ((pair * 2 + own_chunk) ^ own_row % 8) * 16, r);  // planted overwrite
        }
        if (PLANTED != StorePlanted::FENCE && (PLANTED != StorePlanted::FENCE_OF_ONE || thread_index() == 0))
            fence_async_proxy();
        block_barrier();
        if (thread_index() == 0) {
            store_box(p.to, column, first_row, stage);  // planted
            if (PLANTED != StorePlanted::NO_COMMIT || column + STORE_BOX_NUMBERS < p.columns) commit_stores();
        }
    }
    if (PLANTED == StorePlanted::ENDS_EARLY) return;
    wait_stores_read<0>();
    if (PLANTED != StorePlanted::EARLY_READ) return;
    block_barrier();
    if (block_index().x == 0) {
        const uint16_t number = load_global(p.there + thread_index() % p.columns);  // planted early read
        store_global(p.seen + thread_index(), number);
    }
}

INFONCE_PLANTED(planted_box_store_sound, BoxStoreParams, 64) { store_boxes<StorePlanted::NOTHING>(p); }
INFONCE_PLANTED(planted_box_store_fence, BoxStoreParams, 64) { store_boxes<StorePlanted::FENCE>(p); }
INFONCE_PLANTED(planted_box_store_fence_of_one, BoxStoreParams, 64) { store_boxes<StorePlanted::FENCE_OF_ONE>(p); }
INFONCE_PLANTED(planted_box_store_overwrite, BoxStoreParams, 64) { store_boxes<StorePlanted::OVERWRITE>(p); }
INFONCE_PLANTED(planted_box_store_ends_early, BoxStoreParams, 64) { store_boxes<StorePlanted::ENDS_EARLY>(p); }
INFONCE_PLANTED(planted_box_store_no_commit, BoxStoreParams, 64) { store_boxes<StorePlanted::NO_COMMIT>(p); }
INFONCE_PLANTED(planted_box_store_early_read, BoxStoreParams, 64) { store_boxes<StorePlanted::EARLY_READ>(p); }

}  // namespace infonce
