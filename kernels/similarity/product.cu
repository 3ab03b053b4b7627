// sums (+)= W · V or Wᵀ · V, the two products of a chunk of weights, with f32 sums: 2·rows·M·D FLOPs each. The summed
// axis can be split over blocks; finish_gradient adds up the splits in order.
//
//   8 warps as 4 × 2, 32 × 64 sums each; 128 bytes of the summed axis a stage, STAGES in flight
//   wide operands (V, W of Wᵀ·V): rows are the summed axis, 128 columns in sizeof(T) slabs side by side
#include "ptx/barrier.h"
#include "ptx/global.h"
#include "similarity/product.h"
#include "tile/slab.h"

namespace infonce {

template <class Kernel, bool TRANSPOSED>
struct Product {
    using T = typename Kernel::T;
    static constexpr int ROWS = 128, COLUMNS = 128, THREADS = 256, STAGES = 3;
    static constexpr int ELEMENTS = SLAB_BYTES / int(sizeof(T));  // elements of the summed axis a stage
    static constexpr int SIDE = 128 * SLAB_BYTES;                // bytes of one operand a stage
    static constexpr int STAGE = 2 * SIDE;
    static constexpr int WIDE_SLAB = ELEMENTS * SLAB_BYTES;       // ELEMENTS rows × 128 bytes
    static constexpr int SHARED_BYTES = STAGES * STAGE;

    // ELEMENTS rows of the summed axis × 128 elements.
    INFONCE_DEVICE static void load_wide(SharedAddress to, const Matrix& from, uint32_t first, uint32_t column) {
        INFONCE_UNROLL
        for (int slab = 0; slab < int(sizeof(T)); ++slab)
            load_slab<ELEMENTS, THREADS>(to + slab * WIDE_SLAB, from, first, column * uint32_t(sizeof(T)) + slab * SLAB_BYTES);
    }

    // One element of a wide operand.
    INFONCE_DEVICE static uint32_t wide_element(SharedAddress wide, int row, int column) {
        const int slab = column / ELEMENTS, element = column % ELEMENTS;
        return load_shared<uint32_t>(chunk_address(wide + slab * WIDE_SLAB, row, element / 4) + element % 4 * 4);
    }

    // A step of the summed axis × 16 columns of a wide operand, as the right operands of two mma.
    INFONCE_DEVICE static void load_wide_right(uint32_t (&low)[2], uint32_t (&high)[2], SharedAddress wide, int step, int column) {
        const int lane = thread_index() % 32;
        if (sizeof(T) == 2) {
            uint32_t b[4];
            load_matrices_transposed(b, chunk_address(wide + column / ELEMENTS * WIDE_SLAB, step * 16 + lane % 16,
                                                      column % ELEMENTS / 8 + lane / 16));
            low[0] = b[0];
            low[1] = b[1];
            high[0] = b[2];
            high[1] = b[3];
        } else {
            INFONCE_UNROLL
            for (int i = 0; i < 2; ++i) {
                low[i] = wide_element(wide, step * 8 + lane % 4 + 4 * i, column + lane / 4);
                high[i] = wide_element(wide, step * 8 + lane % 4 + 4 * i, column + 8 + lane / 4);
            }
        }
    }

    // A step of the summed axis × 16 columns of a wide operand, transposed, as a left operand.
    INFONCE_DEVICE static void load_wide_left(uint32_t (&a)[4], SharedAddress wide, int step, int column) {
        const int lane = thread_index() % 32;
        if (sizeof(T) == 2) {
            // Matrices in the order rows 0-7, rows 8-15 of the first half of the step, then of the second.
            load_matrices_transposed(a, chunk_address(wide + column / ELEMENTS * WIDE_SLAB,
                                                      step * 16 + lane % 8 + lane / 16 * 8,
                                                      column % ELEMENTS / 8 + lane / 8 % 2));
        } else {
            INFONCE_UNROLL
            for (int i = 0; i < 4; ++i)
                a[i] = wide_element(wide, step * 8 + lane % 4 + i / 2 * 4, column + lane / 4 + i % 2 * 8);
        }
    }

    INFONCE_DEVICE static void run(const ProductParams& p) {
        static_assert(list::describes<Kernel, Product>);
        const SharedAddress shared = shared_base();
        const int lane = thread_index() % 32, warp = thread_index() / 32;
        const int warp_row = warp % 4 * 32, warp_column = warp / 4 * 64;
        // Columns vary fastest: blocks that run together read the same rows of W.
        const uint32_t across = (p.columns + COLUMNS - 1) / COLUMNS;
        const uint32_t first_row = block_index().x / across * ROWS, first_column = block_index().x % across * COLUMNS;
        const uint32_t all_slabs = (p.summed + ELEMENTS - 1) / ELEMENTS;
        const uint32_t first_slab = block_index().y * p.slabs_per_split;
        uint32_t slabs = first_slab < all_slabs ? all_slabs - first_slab : 0;
        if (slabs > p.slabs_per_split) slabs = p.slabs_per_split;
        float sums[2][8][4];
        INFONCE_UNROLL
        for (int i = 0; i < 2; ++i)
            INFONCE_UNROLL
            for (int j = 0; j < 8; ++j)
                INFONCE_UNROLL
                for (int e = 0; e < 4; ++e) sums[i][j][e] = 0.0f;

        auto load = [&](uint32_t slab) {
            const SharedAddress stage = shared + slab % STAGES * STAGE;
            const uint32_t first = (first_slab + slab) * ELEMENTS;
            if (TRANSPOSED)
                load_wide(stage, p.left, first, first_row);
            else
                load_slab<ROWS, THREADS>(stage, p.left, first_row, first * uint32_t(sizeof(T)));
            load_wide(stage + SIDE, p.right, first, first_column);
        };
        INFONCE_UNROLL
        for (int slab = 0; slab < STAGES - 1; ++slab) {
            if (slab < int(slabs)) load(slab);
            commit_copies();
        }
        for (uint32_t slab = 0; slab < slabs; ++slab) {
            wait_copies<STAGES - 2>();
            block_barrier();
            if (slab + STAGES - 1 < slabs) load(slab + STAGES - 1);
            commit_copies();
            const SharedAddress left = shared + slab % STAGES * STAGE, right = left + SIDE;
            INFONCE_UNROLL
            for (int step = 0; step < 4; ++step) {
                uint32_t a[2][4];
                INFONCE_UNROLL
                for (int i = 0; i < 2; ++i) {
                    if (TRANSPOSED)
                        load_wide_left(a[i], left, step, warp_row + i * 16);
                    else
                        load_left(a[i], left, warp_row + i * 16, step);
                }
                INFONCE_UNROLL
                for (int j = 0; j < 8; j += 2) {
                    uint32_t low[2], high[2];
                    load_wide_right(low, high, right, step, warp_column + j * 8);
                    INFONCE_UNROLL
                    for (int i = 0; i < 2; ++i) {
                        Element<T>::multiply(sums[i][j], a[i], low);
                        Element<T>::multiply(sums[i][j + 1], a[i], high);
                    }
                }
            }
        }
        wait_copies<0>();
        const float factor = unshifted(p.shift);
        INFONCE_UNROLL
        for (int i = 0; i < 2; ++i) {
            INFONCE_UNROLL
            for (int half = 0; half < 2; ++half) {
                const uint32_t row = first_row + warp_row + i * 16 + half * 8 + lane / 4;
                if (row >= p.rows) continue;
                float* to = p.sums + (uint64_t(block_index().y) * p.rows + row) * p.columns;
                store_sums<8>(to, first_column + warp_column + lane % 4 * 2, p.columns, TRANSPOSED && p.accumulate, factor,
                              [&](int j, int side) { return sums[i][j][2 * half + side]; });
            }
        }
    }
};

#define INFONCE_BUILD(KERNEL, ...) \
    INFONCE_KERNEL(KERNEL, ProductParams) { Product<list::KERNEL, false>::run(p); }
#define INFONCE_BUILD_TRANSPOSED(KERNEL, ...) \
    INFONCE_KERNEL(KERNEL, ProductParams) { Product<list::KERNEL, true>::run(p); }

INFONCE_TILE(INFONCE_BUILD, product)
INFONCE_TILE(INFONCE_BUILD_TRANSPOSED, product_transposed)

}  // namespace infonce
