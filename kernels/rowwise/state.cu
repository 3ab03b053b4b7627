// The state between steps: key ← m·key + (1 - m)·query over many tensors in one launch (momentum_update); the same of
// rows of a memory bank, normalised (update_rows); copies of rows into a queue, modulo its capacity, or into aligned
// rows (copy_rows); cursor ← (cursor + rows) mod capacity.
#include "ptx/kernel.h"
#include "ptx/math.h"
#include "rowwise/unit_row.h"
#include "tile/matrix.h"

namespace infonce {

constexpr uint32_t MOMENTUM_THREADS = list::momentum_update::THREADS;
// Quads of a thread; the loads of all of them are in flight together.
constexpr int MOMENTUM_QUADS = MOMENTUM_CHUNK / MOMENTUM_THREADS / 4;

struct MomentumTensor {
    const void* query;    // parameters of the query encoder, of MomentumParams' type
    float* key;           // parameters of the key encoder
    void* shadow;         // a copy of the key in the query's type; null: not wanted
    uint64_t length;
    uint64_t first_block;  // blocks before this tensor's
};

struct MomentumParams {
    const MomentumTensor* tensors;
    uint32_t count;
    uint32_t dtype;                // DType of the queries
    const float* device_momentum;  // m, if it lives on the device; else null
    float momentum;                // m otherwise
};

// key ← m·key + (1 - m)·query. A block processes MOMENTUM_CHUNK elements of one tensor.
INFONCE_KERNEL(momentum_update, MomentumParams) {
    const uint64_t block = block_index().x;
    // Bisection: the last tensor whose first block is not past this one.
    uint32_t low = 0, high = p.count;
    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        if (load_global(&p.tensors[middle].first_block) <= block)
            low = middle;
        else
            high = middle;
    }
    const MomentumTensor* at = p.tensors + low;
    const void* query = global_pointer(load_global(&at->query));
    float* key = global_pointer(load_global(&at->key));
    void* shadow = global_pointer(load_global(&at->shadow));
    const uint64_t length = load_global(&at->length);
    const uint64_t first = (block - load_global(&at->first_block)) * MOMENTUM_CHUNK;
    const uint64_t end = first + MOMENTUM_CHUNK < length ? first + MOMENTUM_CHUNK : length;
    const float momentum = p.device_momentum ? load_global(p.device_momentum) : p.momentum;
    const float rest = 1.0f - momentum;
    const bool quads = is_quad_aligned(key, DTYPE_F32) && is_quad_aligned(query, p.dtype) && is_quad_aligned(shadow, p.dtype);
    // Elements before `whole` are processed in quads, the others singly.
    const uint64_t whole = quads ? first + (end - first) / 4 * 4 : first;
    Vector16 of_query[MOMENTUM_QUADS], of_key[MOMENTUM_QUADS];
    INFONCE_UNROLL
    for (int i = 0; i < MOMENTUM_QUADS; ++i) {
        const uint64_t at = first + 4 * (i * MOMENTUM_THREADS + thread_index());
        if (at >= whole) continue;
        of_query[i] = load_quad(query, p.dtype, at);
        of_key[i] = load_quad(key, DTYPE_F32, at);
    }
    INFONCE_UNROLL
    for (int i = 0; i < MOMENTUM_QUADS; ++i) {
        const uint64_t at = first + 4 * (i * MOMENTUM_THREADS + thread_index());
        if (at >= whole) continue;
        float theirs[4], updated[4];
        widen_quad(of_query[i], p.dtype, theirs);
        widen_quad(of_key[i], DTYPE_F32, updated);
        INFONCE_UNROLL
        for (int j = 0; j < 4; ++j) updated[j] = fma(momentum, updated[j], rest * theirs[j]);
        store_quad(key, DTYPE_F32, at, updated);
        if (shadow) store_quad(shadow, p.dtype, at, updated);
    }
    for (uint64_t i = whole + thread_index(); i < end; i += MOMENTUM_THREADS) {
        const float updated = fma(momentum, load_global(key + i), rest * load_element(query, p.dtype, i));
        store_global(key + i, updated);
        if (shadow) store_element(shadow, p.dtype, i, updated);
    }
}

struct UpdateRowsParams {
    Matrix bank, keys;     // rows × dim
    const uint32_t* rows;  // the row of the bank that each key belongs to; past the bank's last: none
    uint32_t dim;
    float momentum;  // m
    float epsilon;
};

// bank_r ← y / max(‖y‖, ε), y = m·bank_r + (1 - m)·key_i, r = rows[i]. A warp a key. Of the keys of one row the last
// counts: the warps of the others find its index among the later ones, and do nothing.
INFONCE_KERNEL(update_rows, UpdateRowsParams) {
    const uint64_t key = uint64_t(block_index().x) * (list::update_rows::THREADS / 32) + thread_index() / 32;
    if (key >= p.keys.rows) return;
    const uint32_t lane = thread_index() % 32, row = load_global(p.rows + key);
    if (row >= p.bank.rows) return;
    bool is_replaced = false;
    for (uint64_t later = key + 1 + lane; later < p.keys.rows; later += 32)
        if (load_global(p.rows + later) == row) is_replaced = true;
    if (warp_any(is_replaced)) return;
    const float rest = 1.0f - p.momentum;
    const auto moved = [&](uint32_t d) { return fma(p.momentum, p.bank.load(row, d), rest * p.keys.load(key, d)); };
    store_unit_row(p.dim, lane, p.epsilon, moved, [&](uint32_t d, float x) { p.bank.store(row, d, x); });
}

struct CopyRowsParams {
    Matrix from, to;
    uint32_t rows;
    uint32_t from_columns, to_columns;  // columns that `from` lacks become zero
    uint32_t first_from, first_to;      // the first row of each
    uint32_t capacity;                  // rows of `to`; row indices wrap around
    const uint32_t* cursor;             // added to `first_to`; null: 0
};

// Row (first_to + cursor + r) mod capacity of `to` = row first_from + r of `from`. A warp a row. f32 elements keep all
// bits, because nothing computes with them: labels are copied as f32.
INFONCE_KERNEL(copy_rows, CopyRowsParams) {
    const uint64_t row = uint64_t(block_index().x) * (list::copy_rows::THREADS / 32) + thread_index() / 32;
    if (row >= p.rows) return;
    const uint64_t cursor = p.cursor ? load_global(p.cursor) : 0;
    const uint64_t to = (p.first_to + cursor + row) % p.capacity;
    for (uint32_t d = thread_index() % 32; d < p.to_columns; d += 32) {
        const float x = d < p.from_columns ? p.from.load(p.first_from + row, d) : 0.0f;
        p.to.store(to, d, x);
    }
}

struct CursorParams {
    uint32_t* cursor;
    uint32_t rows, capacity;
};

// cursor ← (cursor + rows) mod capacity: a launch of its own, because all blocks of the copy read the cursor.
INFONCE_KERNEL(advance_cursor, CursorParams) {
    if (thread_index() != 0) return;
    store_global(p.cursor, uint32_t((uint64_t(load_global(p.cursor)) + p.rows) % p.capacity));
}

}  // namespace infonce
