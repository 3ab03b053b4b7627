// L2 normalisation of rows, y_i = x_i / max(‖x_i‖, ε), and its gradient dx_i = (dy_i - y_i⟨y_i, dy_i⟩) / ‖x_i‖, each
// with the cast to the output's type. O(N·D) bytes, read once: a warp holds its rows in registers, several where D is
// small, so that enough loads are in flight. Rows of too many elements, not aligned to quads (tile/numbers.h), or of
// norms near the ends of f32 take a slower path.
#include "ptx/kernel.h"
#include "ptx/math.h"
#include "rowwise/unit_row.h"
#include "tile/matrix.h"

namespace infonce {

// Whether a norm is from 2^-50 to 2^50: squares and inverses are then normal f32 values.
INFONCE_DEVICE bool is_moderate(float norm) { return norm >= 8.8817842e-16f && norm <= 1.1258999e15f; }

// The sums of all rows at once, each in the order of warp_sum.
template <int ROWS>
INFONCE_DEVICE void warp_sums(float (&x)[ROWS]) {
    for (int mask = 16; mask > 0; mask /= 2) {
        INFONCE_UNROLL
        for (int row = 0; row < ROWS; ++row) x[row] += shuffle_xor(x[row], mask);
    }
}

struct NormalizeParams {
    Matrix x, y;   // rows × dim
    float* norms;  // ‖x_i‖
    uint32_t rows, dim;
    float epsilon;
    uint32_t warp_rows;  // rows that a warp holds in registers; 0: one row, not held
};

// The slower path, for any row.
INFONCE_DEVICE void normalize_row(const NormalizeParams& p, uint64_t row, uint32_t lane) {
    const auto load = [&](uint32_t d) { return p.x.load(row, d); };
    const float norm =
        store_unit_row(p.dim, lane, p.epsilon, load, [&](uint32_t d, float y) { p.y.store(row, d, y); });
    if (lane == 0) store_global(p.norms + row, norm);
}

// ROWS rows of moderate norms, held in registers. Returns the rows left to the slower path, a bit each.
template <int ROWS>
INFONCE_DEVICE uint32_t normalize_rows(const NormalizeParams& p, uint64_t first, uint32_t lane) {
    constexpr int WIDTH = NORMALIZE_QUADS / ROWS;
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
    float squares[ROWS];
    INFONCE_UNROLL
    for (int row = 0; row < ROWS; ++row) {
        squares[row] = 0.0f;
        INFONCE_UNROLL
        for (int i = 0; i < WIDTH; ++i) {
            float x[4];
            widen_quad(given[row][i], p.x.dtype, x);
            INFONCE_UNROLL
            for (int j = 0; j < 4; ++j) squares[row] = fma(x[j], x[j], squares[row]);
        }
    }
    warp_sums(squares);
    uint32_t others = 0;
    INFONCE_UNROLL
    for (int row = 0; row < ROWS; ++row) {
        if (first + row >= p.rows) continue;
        // NaN is in no range.
        const float norm = sqrt_exact(squares[row]);
        if (!is_moderate(norm) || norm < p.epsilon) {
            others |= 1u << row;
            continue;
        }
        if (lane == 0) store_global(p.norms + first + row, norm);
        const float inverse = 1.0f / norm;
        INFONCE_UNROLL
        for (int i = 0; i < WIDTH; ++i) {
            const uint32_t column = i * WARP_ELEMENTS + lane * 4;
            if (column >= p.dim) continue;
            float x[4];
            widen_quad(given[row][i], p.x.dtype, x);
            INFONCE_UNROLL
            for (int j = 0; j < 4; ++j) x[j] *= inverse;
            p.y.store_quad(first + row, column, x);
        }
    }
    return others;
}

// y_i = x_i / max(‖x_i‖, ε)
INFONCE_KERNEL(normalize, NormalizeParams) {
    const uint64_t warp = uint64_t(block_index().x) * (list::normalize::THREADS / 32) + thread_index() / 32;
    const uint32_t lane = thread_index() % 32;
    const uint64_t first = warp * (p.warp_rows ? p.warp_rows : 1);
    if (first >= p.rows) return;
    uint32_t others = 1;
    switch (p.warp_rows) {
        case 8: others = normalize_rows<8>(p, first, lane); break;
        case 4: others = normalize_rows<4>(p, first, lane); break;
        case 2: others = normalize_rows<2>(p, first, lane); break;
        case 1: others = normalize_rows<1>(p, first, lane); break;
    }
    for (uint64_t row = first; others; others >>= 1, ++row)
        if (others & 1) normalize_row(p, row, lane);
}

struct NormalizeBackwardParams {
    Matrix y, dy, dx;  // rows × dim
    const float* norms;  // ‖x_i‖
    uint32_t rows, dim;
    float epsilon;
    float short_norm;    // ε, or the smallest normal value of dx's type if that is larger
    uint32_t warp_rows;  // as in NormalizeParams
};

// The slower path, for any row.
INFONCE_DEVICE void normalize_backward_row(const NormalizeBackwardParams& p, uint64_t row, uint32_t lane) {
    const float norm = load_global(p.norms + row);
    const bool flat = norm <= p.epsilon;
    float along = 0.0f;
    for (uint32_t d = lane; d < p.dim; d += 32) along = fma(p.y.load(row, d), p.dy.load(row, d), along);
    along = flat ? 0.0f : warp_sum(along);
    const float divisor = flat ? p.epsilon : norm;
    // A row whose gradient overflows gets 0: its direction is only rounding error, and an infinity would spread to all
    // parameters. If an element of y or dy is not finite, the row keeps what it computes.
    bool vanishes = false;
    if (norm <= p.short_norm) {
        float given = 0.0f, left = 0.0f;  // whether an element is not finite
        for (uint32_t d = lane; d < p.dim; d += 32) {
            const float y = p.y.load(row, d), dy = p.dy.load(row, d);
            if (!is_finite(y) || !is_finite(dy)) given = 1.0f;
            if (!is_finite(p.dx.rounded((dy - y * along) / divisor))) left = 1.0f;
        }
        given = warp_sum(given);
        left = warp_sum(left);
        vanishes = given == 0.0f && left > 0.0f;
    }
    for (uint32_t d = lane; d < p.dim; d += 32) {
        const float dx = (p.dy.load(row, d) - p.y.load(row, d) * along) / divisor;
        p.dx.store(row, d, vanishes ? 0.0f : dx);
    }
}

// ROWS rows of moderate norms, held in registers. Returns the rows left to the slower path, a bit each.
template <int ROWS>
INFONCE_DEVICE uint32_t normalize_backward_rows(const NormalizeBackwardParams& p, uint64_t first, uint32_t lane) {
    constexpr int WIDTH = BACKWARD_QUADS / ROWS;
    Vector16 unit[ROWS][WIDTH], given[ROWS][WIDTH];
    float norms[ROWS], along[ROWS];
    INFONCE_UNROLL
    for (int row = 0; row < ROWS; ++row) {
        norms[row] = first + row < p.rows ? load_global(p.norms + first + row) : 0.0f;
        INFONCE_UNROLL
        for (int i = 0; i < WIDTH; ++i) {
            const uint32_t column = i * WARP_ELEMENTS + lane * 4;
            unit[row][i] = given[row][i] = {{0, 0, 0, 0}};
            if (first + row >= p.rows || column >= p.dim) continue;
            unit[row][i] = p.y.load_quad(first + row, column);
            given[row][i] = p.dy.load_quad(first + row, column);
        }
    }
    INFONCE_UNROLL
    for (int row = 0; row < ROWS; ++row) {
        along[row] = 0.0f;
        INFONCE_UNROLL
        for (int i = 0; i < WIDTH; ++i) {
            float y[4], dy[4];
            widen_quad(unit[row][i], p.y.dtype, y);
            widen_quad(given[row][i], p.dy.dtype, dy);
            INFONCE_UNROLL
            for (int j = 0; j < 4; ++j) along[row] = fma(y[j], dy[j], along[row]);
        }
    }
    warp_sums(along);
    uint32_t others = 0;
    INFONCE_UNROLL
    for (int row = 0; row < ROWS; ++row) {
        if (first + row >= p.rows) continue;
        if (!is_moderate(norms[row]) || norms[row] <= p.short_norm) {
            others |= 1u << row;
            continue;
        }
        const float inverse = 1.0f / norms[row];
        INFONCE_UNROLL
        for (int i = 0; i < WIDTH; ++i) {
            const uint32_t column = i * WARP_ELEMENTS + lane * 4;
            if (column >= p.dim) continue;
            float y[4], dx[4];
            widen_quad(unit[row][i], p.y.dtype, y);
            widen_quad(given[row][i], p.dy.dtype, dx);
            INFONCE_UNROLL
            for (int j = 0; j < 4; ++j) dx[j] = (dx[j] - y[j] * along[row]) * inverse;
            p.dx.store_quad(first + row, column, dx);
        }
    }
    return others;
}

// dx_i = (dy_i - y_i⟨y_i, dy_i⟩) / ‖x_i‖; dy_i / ε where ‖x_i‖ ≤ ε; 0 where a short row overflows
INFONCE_KERNEL(normalize_backward, NormalizeBackwardParams) {
    const uint64_t warp = uint64_t(block_index().x) * (list::normalize_backward::THREADS / 32) + thread_index() / 32;
    const uint32_t lane = thread_index() % 32;
    const uint64_t first = warp * (p.warp_rows ? p.warp_rows : 1);
    if (first >= p.rows) return;
    uint32_t others = 1;
    switch (p.warp_rows) {
        case 4: others = normalize_backward_rows<4>(p, first, lane); break;
        case 2: others = normalize_backward_rows<2>(p, first, lane); break;
        case 1: others = normalize_backward_rows<1>(p, first, lane); break;
    }
    for (uint64_t row = first; others; others >>= 1, ++row)
        if (others & 1) normalize_backward_row(p, row, lane);
}

}  // namespace infonce
