// codes_id = e4m3(x_id / scale_i), scale_i = max_d |x_id| / 448: rows of 8-bit codes with one scale each. O(N·D) bytes,
// read once where a warp holds its rows in registers. Rows with too many elements or not aligned to quads
// (tile/numbers.h) are read twice.
#include "ptx/kernel.h"
#include "ptx/math.h"
#include "tile/matrix.h"

namespace infonce {

struct QuantizeParams {
    Matrix x;
    Matrix codes;          // e4m3; zeros past column `dim`
    uint32_t rows, dim;
    uint32_t scaled_rows;  // length of `codes.scales`; scales past the last row become 0
    uint32_t warp_rows;    // rows that a warp holds in registers; 0: one row, not held
};

// The scale that maps a row's largest element to 448, the largest e4m3. It is a normal f32, so its inverse is, too: if
// the largest is below 448·2^-126, elements lose digits. NaN if an element is not finite, so every logit of that row is
// NaN.
INFONCE_DEVICE float row_scale(float largest) {
    if (!(largest < infinity())) return quiet_nan();
    if (largest == 0.0f) return 1.0f;
    const float scale = largest / 448.0f, least = 1.17549435e-38f;
    return scale < least ? least : scale;
}

// The maxima of ROWS rows over the warp's lanes, NaN where a row has one.
template <int ROWS>
INFONCE_DEVICE void warp_maxima(float (&x)[ROWS]) {
    for (int mask = 16; mask > 0; mask /= 2) {
        INFONCE_UNROLL
        for (int row = 0; row < ROWS; ++row) x[row] = larger_or_nan(x[row], shuffle_xor(x[row], mask));
    }
}

INFONCE_DEVICE float quad_largest(float largest, const float (&x)[4]) {
    INFONCE_UNROLL
    for (int j = 0; j < 4; ++j) largest = larger_or_nan(largest, absolute(x[j]));
    return largest;
}

// Four columns from a multiple of four on.
INFONCE_DEVICE void store_codes(const QuantizeParams& p, uint64_t row, uint32_t column, const float (&x)[4], float inverse) {
    store_global(reinterpret_cast<uint32_t*>(p.codes.byte_at(row, column)),
                 pack_e4m3(x[0] * inverse, x[1] * inverse) | pack_e4m3(x[2] * inverse, x[3] * inverse) << 16);
}

// A row of any length and alignment.
INFONCE_DEVICE void quantize_row(const QuantizeParams& p, uint64_t row, uint32_t lane) {
    const bool quads = p.x.in_quads(p.dim);
    auto load = [&](uint32_t column, float(&x)[4]) { p.x.load_four(x, row, column, p.dim, quads && column < p.dim); };
    float largest[1] = {0.0f};
    for (uint32_t column = lane * 4; column < p.dim; column += WARP_ELEMENTS) {
        float x[4];
        load(column, x);
        largest[0] = quad_largest(largest[0], x);
    }
    warp_maxima(largest);
    const float scale = row_scale(largest[0]), inverse = 1.0f / scale;
    if (lane == 0) store_global(p.codes.scales + row, scale);
    for (uint32_t column = lane * 4; column < p.codes.row_bytes; column += WARP_ELEMENTS) {
        float x[4];
        load(column, x);
        store_codes(p, row, column, x, inverse);
    }
}

template <int ROWS>
INFONCE_DEVICE void quantize_held_rows(const QuantizeParams& p, uint64_t first, uint32_t lane) {
    constexpr int WIDTH = QUANTIZE_QUADS / ROWS;
    Vector16 given[ROWS][WIDTH];
    INFONCE_UNROLL
    for (int row = 0; row < ROWS; ++row) {
        INFONCE_UNROLL
        for (int i = 0; i < WIDTH; ++i) {
            const uint32_t column = i * WARP_ELEMENTS + lane * 4;
            given[row][i] = {{0, 0, 0, 0}};
            if (first + row < p.rows && column < p.dim) given[row][i] = p.x.load_quad(first + row, column);
        }
    }
    float largest[ROWS];
    INFONCE_UNROLL
    for (int row = 0; row < ROWS; ++row) {
        largest[row] = 0.0f;
        INFONCE_UNROLL
        for (int i = 0; i < WIDTH; ++i) {
            float x[4];
            widen_quad(given[row][i], p.x.dtype, x);
            largest[row] = quad_largest(largest[row], x);
        }
    }
    warp_maxima(largest);
    INFONCE_UNROLL
    for (int row = 0; row < ROWS; ++row) {
        if (first + row >= p.rows) continue;
        const float scale = row_scale(largest[row]), inverse = 1.0f / scale;
        if (lane == 0) store_global(p.codes.scales + first + row, scale);
        INFONCE_UNROLL
        for (int i = 0; i < WIDTH; ++i) {
            const uint32_t column = i * WARP_ELEMENTS + lane * 4;
            if (column >= p.codes.row_bytes) continue;
            float x[4];
            widen_quad(given[row][i], p.x.dtype, x);
            store_codes(p, first + row, column, x, inverse);
        }
    }
}

// codes_id = e4m3(x_id / scale_i), to nearest, ties to even.
INFONCE_KERNEL(quantize_rows, QuantizeParams) {
    const uint64_t warp = uint64_t(block_index().x) * (list::quantize_rows::THREADS / 32) + thread_index() / 32;
    const uint32_t lane = thread_index() % 32, warp_rows = p.warp_rows ? p.warp_rows : 1;
    const uint64_t first = warp * warp_rows;
    if (lane < warp_rows && first + lane >= p.rows && first + lane < p.scaled_rows)
        store_global(p.codes.scales + first + lane, 0.0f);
    if (first >= p.rows) return;
    switch (p.warp_rows) {
        case 8: return quantize_held_rows<8>(p, first, lane);
        case 4: return quantize_held_rows<4>(p, first, lane);
        case 2: return quantize_held_rows<2>(p, first, lane);
        case 1: return quantize_held_rows<1>(p, first, lane);
        default: return quantize_row(p, first, lane);
    }
}

}  // namespace infonce
