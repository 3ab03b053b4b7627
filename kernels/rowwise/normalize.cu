// L2 normalisation of rows and its gradient, the cast to the output's type included. A warp a row;
// O(N·D) bytes, read from memory once and from the cache after that.
#include "ptx/kernel.h"
#include "ptx/math.h"
#include "tile/numbers.h"

namespace infonce {

constexpr int NORMALIZE_WARPS = 8;

struct NormalizeParams {
    Matrix x, y;
    float* norms;
    uint32_t rows, dim;
    float epsilon;
};

// y_i = x_i / max(‖x_i‖, ε)
INFONCE_KERNEL(normalize, NormalizeParams, NORMALIZE_WARPS * 32, 1) {
    const uint64_t row = uint64_t(block_index().x) * NORMALIZE_WARPS + thread_index() / 32;
    const uint32_t lane = thread_index() % 32;
    if (row >= p.rows) return;
    // Numbers are scaled by the largest before they are squared, so that nothing overflows.
    float largest = 0.0f, nans = 0.0f;
    for (uint32_t d = lane; d < p.dim; d += 32) {
        const float x = absolute(p.x.load(row, d));
        largest = larger(largest, x);
        if (x != x) nans = 1.0f;
    }
    for (int mask = 16; mask > 0; mask /= 2) largest = larger(largest, shuffle_xor(largest, mask));
    if (warp_sum(nans) > 0.0f) largest = quiet_nan();
    // The same in every lane, so that all take the same way.
    float norm = largest;
    if (largest > 0.0f && largest < infinity()) {
        float squares = 0.0f;
        for (uint32_t d = lane; d < p.dim; d += 32) {
            const float x = p.x.load(row, d) / largest;
            squares = fma(x, x, squares);
        }
        norm = largest * sqrt_exact(warp_sum(squares));
    }
    if (lane == 0) store_global(p.norms + row, norm);
    // A NaN norm must not be replaced by ε.
    const float divisor = norm < p.epsilon ? p.epsilon : norm;
    for (uint32_t d = lane; d < p.dim; d += 32) p.y.store(row, d, p.x.load(row, d) / divisor);
}

struct NormalizeBackwardParams {
    Matrix y, dy, dx;
    const float* norms;
    uint32_t rows, dim;
    float epsilon;
};

// dx_i = (dy_i - y_i⟨y_i, dy_i⟩) / ‖x_i‖; dy_i / ε where ‖x_i‖ ≤ ε
INFONCE_KERNEL(normalize_backward, NormalizeBackwardParams, NORMALIZE_WARPS * 32, 1) {
    const uint64_t row = uint64_t(block_index().x) * NORMALIZE_WARPS + thread_index() / 32;
    const uint32_t lane = thread_index() % 32;
    if (row >= p.rows) return;
    const float norm = load_global(p.norms + row);
    const bool flat = norm <= p.epsilon;
    float along = 0.0f;
    for (uint32_t d = lane; d < p.dim; d += 32) along = fma(p.y.load(row, d), p.dy.load(row, d), along);
    along = flat ? 0.0f : warp_sum(along);
    const float divisor = flat ? p.epsilon : norm;
    for (uint32_t d = lane; d < p.dim; d += 32)
        p.dx.store(row, d, (p.dy.load(row, d) - p.y.load(row, d) * along) / divisor);
}

}  // namespace infonce
