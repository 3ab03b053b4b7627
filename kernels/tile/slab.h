// A slab: 128 bytes of each of some rows, in shared memory, the unit in which matrices are copied. 16-byte chunk c of
// row r lies at place c XOR (r mod 8), so that the eight rows of an ldmatrix lie in different banks.
#pragma once

#include "ptx/cp_async.h"
#include "ptx/kernel.h"
#include "ptx/ldmatrix.h"
#include "ptx/shared.h"
#include "tile/matrix.h"

namespace infonce {

constexpr int CHUNK_BYTES = 16;

INFONCE_DEVICE SharedAddress chunk_address(SharedAddress slab, int row, int chunk) {
    return slab + row * SLAB_BYTES + ((chunk ^ (row & 7)) * CHUNK_BYTES);
}

// Starts the copy (cp.async by all THREADS threads) of 128 bytes, from `first_byte`, of each of ROWS rows, from
// `first_row`. Outside the matrix it writes zeros.
template <int ROWS, int THREADS>
INFONCE_DEVICE void load_slab(SharedAddress slab, const Matrix& from, uint32_t first_row, uint32_t first_byte) {
    static_assert(ROWS * 8 % THREADS == 0, "every thread copies as many chunks");
    INFONCE_UNROLL
    for (int i = 0; i < ROWS * 8 / THREADS; ++i) {
        const int index = i * THREADS + int(thread_index());
        const int row = index / 8, chunk = index % 8;
        const uint32_t byte = first_byte + chunk * CHUNK_BYTES;
        const bool valid = first_row + row < from.rows && byte < from.row_bytes;
        const char* source = static_cast<const char*>(from.data);
        if (valid) source += uint64_t(first_row + row) * from.stride + byte;
        copy_async_16(chunk_address(slab, row, chunk), source, valid);
    }
}

// 16 rows × 32 bytes, the slab's bytes from 32·step on, as the left operand of an mma.
INFONCE_DEVICE void load_left(uint32_t (&a)[4], SharedAddress slab, int first_row, int step) {
    const int lane = thread_index() % 32;
    load_matrices(a, chunk_address(slab, first_row + lane % 16, 2 * step + lane / 16));
}

// The same as the right operands of two mma: the slab's rows are the operands' columns.
INFONCE_DEVICE void load_right(uint32_t (&low)[2], uint32_t (&high)[2], SharedAddress slab, int first_row, int step) {
    const int lane = thread_index() % 32;
    uint32_t b[4];
    load_matrices(b, chunk_address(slab, first_row + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
    low[0] = b[0];
    low[1] = b[1];
    high[0] = b[2];
    high[1] = b[3];
}

}  // namespace infonce
