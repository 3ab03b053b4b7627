// Every kernel of the crate: its tile, threads and shared memory. A source expands the rows of its families into kernels
// and asserts that its own constants agree. build/list.rs writes the same rows as Rust for src/launch/kernels.rs.
#pragma once

#include <cstdint>

#include "ptx/types.h"

namespace infonce {

// Constants of kernels that the code of their launches needs too.
constexpr int SLAB_BYTES = 128;             // of a row of a slab or of a box
constexpr uint32_t SLAB_ELEMENTS = 64;      // 16-bit elements of such a row
constexpr int WEIGHTS_BOX_ROWS = 16;        // rows of a box of stored weights: those of a warp
constexpr int WARP_CANDIDATES = 4;          // candidates that a warp of `positives` multiplies at a time
constexpr uint32_t DIGIT_BITS = 4;          // bits of a positive's index by which a pass of `group_anchors` sorts
constexpr int NORMALIZE_QUADS = 8;          // quads (4 elements) of a row that a lane of `normalize` holds
constexpr int BACKWARD_QUADS = 4;           // the same of `normalize_backward`
constexpr int QUANTIZE_QUADS = 8;           // the same of `quantize_rows`
constexpr uint32_t MOMENTUM_CHUNK = 4096;   // elements of a block of `momentum_update`
constexpr uint32_t LIST_CAPACITY = 256;     // entries of a list of best scores (similarity/best_lists.h)
constexpr uint32_t LIST_OWNERS = 4;         // lists of a row: one for each thread that holds scores of it
constexpr uint32_t LIST_ROWS = 8;           // rows whose lists are interleaved in memory

namespace list {

// A kernel that works row by row, or as one block. MIN: blocks per SM that its registers must allow (the second
// argument of __launch_bounds__). BYTES: dynamic shared memory of a block.
template <int N, int MIN, int BYTES>
struct Plain {
    static constexpr int THREADS = N, MIN_BLOCKS = MIN, CLUSTER = 1, SHARED_BYTES = BYTES;
};

// A kernel with a tile of R × C; of the fused gradients: owner rows × streamed rows. D: the longest row that it serves,
// in elements; 0: any length. RESIDENT: blocks that fit an SM of Hopper. CTAS: blocks of a cluster.
template <class Type, int D, int R, int C, int S, int N, int RESIDENT, int CTAS, int BYTES>
struct Tiled {
    using T = Type;
    static constexpr int DIM = D, ROWS = R, COLUMNS = C, STAGES = S;
    static constexpr int THREADS = N, MIN_BLOCKS = 1, CLUSTER = CTAS, SHARED_BYTES = BYTES;
};

// Whether `Tile`, which a source is written for, is that of the kernel's row.
template <class Kernel, class Tile>
constexpr bool describes = Kernel::ROWS == Tile::ROWS && Kernel::COLUMNS == Tile::COLUMNS &&
                           Kernel::STAGES == Tile::STAGES && Kernel::THREADS == Tile::THREADS &&
                           Kernel::SHARED_BYTES == Tile::SHARED_BYTES;

// Kernels NAME_type_D, or NAME_type where D is 0, of one row and several types: BUILD(kernel, its Tiled) for each.
#define INFONCE_16_BIT(BUILD, NAME, D, ...)                                \
    BUILD(INFONCE_NAME_##D(NAME, bf16), list::Tiled<bf16, D, __VA_ARGS__>) \
    BUILD(INFONCE_NAME_##D(NAME, f16), list::Tiled<f16, D, __VA_ARGS__>)
#define INFONCE_32_BIT(BUILD, NAME, D, ...)                                \
    BUILD(INFONCE_NAME_##D(NAME, f32), list::Tiled<float, D, __VA_ARGS__>) \
    BUILD(INFONCE_NAME_##D(NAME, tf32), list::Tiled<tf32, D, __VA_ARGS__>)
#define INFONCE_8_BIT(BUILD, NAME, D, ...) BUILD(INFONCE_NAME_##D(NAME, e4m3), list::Tiled<e4m3, D, __VA_ARGS__>)
#define INFONCE_NAME_0(NAME, T) NAME##_##T
#define INFONCE_NAME_64(NAME, T) NAME##_##T##_64
#define INFONCE_NAME_128(NAME, T) NAME##_##T##_128
#define INFONCE_NAME_256(NAME, T) NAME##_##T##_256
#define INFONCE_NAME_512(NAME, T) NAME##_##T##_512

// ---- Rows of kernels with a tile. Behind NAME: D, rows and columns of the tile, stages, threads of a block, resident
// blocks, blocks of a cluster, shared bytes.

// similarity/ (sm_80)
#define INFONCE_TILE(BUILD, NAME)                                 \
    INFONCE_16_BIT(BUILD, NAME, 0, 128, 128, 3, 256, 1, 1, 98304) \
    INFONCE_32_BIT(BUILD, NAME, 0, 128, 128, 3, 256, 1, 1, 98304)
#define INFONCE_GRADIENT(BUILD, NAME)                              \
    INFONCE_16_BIT(BUILD, NAME, 64, 128, 64, 3, 256, 1, 1, 40960)  \
    INFONCE_16_BIT(BUILD, NAME, 128, 128, 64, 3, 256, 1, 1, 81920) \
    INFONCE_16_BIT(BUILD, NAME, 256, 128, 32, 2, 256, 1, 1, 98304) \
    INFONCE_32_BIT(BUILD, NAME, 64, 64, 32, 3, 128, 3, 1, 40960)   \
    INFONCE_32_BIT(BUILD, NAME, 128, 64, 32, 3, 128, 2, 1, 81920)  \
    INFONCE_32_BIT(BUILD, NAME, 256, 64, 16, 2, 128, 2, 1, 98304)

// hopper/ (sm_90a). Kernels with a D keep rows of up to D elements in shared memory: the anchors of a score tile, so
// that it loads candidates alone; the owner rows of a gradient. At D = 256 a gradient's sums take half of the registers;
// the rest holds 64 logits a thread and no second term.
#define INFONCE_HOPPER_GRADIENT(BUILD, NAME)                         \
    INFONCE_16_BIT(BUILD, NAME, 64, 128, 128, 5, 384, 1, 1, 100960)  \
    INFONCE_16_BIT(BUILD, NAME, 128, 128, 128, 5, 384, 1, 1, 199264) \
    INFONCE_16_BIT(BUILD, NAME, 256, 128, 64, 4, 384, 1, 1, 197712)
#define INFONCE_HOPPER_GRADIENT_STREAMED(BUILD, NAME)                \
    INFONCE_16_BIT(BUILD, NAME, 64, 128, 128, 5, 384, 1, 1, 103520)  \
    INFONCE_16_BIT(BUILD, NAME, 128, 128, 128, 5, 384, 1, 1, 201824) \
    INFONCE_16_BIT(BUILD, NAME, 256, 128, 64, 4, 384, 1, 1, 198736)
#define INFONCE_HOPPER_GRADIENT_BOTH(BUILD, NAME)                 \
    INFONCE_16_BIT(BUILD, NAME, 64, 128, 96, 6, 384, 1, 1, 92528) \
    INFONCE_16_BIT(BUILD, NAME, 128, 128, 96, 6, 384, 1, 1, 182640)
#define INFONCE_HOPPER_EXPONENTIALS(BUILD, NAME) INFONCE_16_BIT(BUILD, NAME, 0, 128, 256, 4, 384, 1, 2, 231536)
#define INFONCE_HOPPER_WEIGHTS(BUILD, NAME)                        \
    INFONCE_16_BIT(BUILD, NAME, 0, 128, 256, 4, 384, 1, 2, 231536) \
    INFONCE_16_BIT(BUILD, NAME, 256, 128, 256, 4, 384, 1, 2, 231536)
#define INFONCE_HOPPER_SCORES(BUILD, NAME)                           \
    INFONCE_16_BIT(BUILD, NAME, 0, 128, 256, 4, 384, 1, 2, 231536)   \
    INFONCE_16_BIT(BUILD, NAME, 256, 128, 256, 4, 384, 1, 2, 231536) \
    INFONCE_8_BIT(BUILD, NAME, 0, 128, 256, 4, 384, 1, 2, 231536)    \
    INFONCE_8_BIT(BUILD, NAME, 512, 128, 256, 4, 384, 1, 2, 231536)
#define INFONCE_HOPPER_PRODUCT(BUILD, NAME) INFONCE_16_BIT(BUILD, NAME, 0, 128, 256, 4, 384, 1, 2, 196672)

// ---- All kernels, by family and source. list::NAME is the row of the kernel NAME.

#define INFONCE_ROW(KERNEL, ...) struct KERNEL : __VA_ARGS__ {};
INFONCE_GRADIENT(INFONCE_ROW, gradient_online)                           // similarity/gradient.cu
INFONCE_GRADIENT(INFONCE_ROW, gradient_known)                            // similarity/gradient.cu
INFONCE_HOPPER_GRADIENT(INFONCE_ROW, hopper_gradient_online)             // hopper/gradient.cu
INFONCE_HOPPER_GRADIENT(INFONCE_ROW, hopper_gradient_owner)              // hopper/gradient.cu
INFONCE_HOPPER_GRADIENT_STREAMED(INFONCE_ROW, hopper_gradient_streamed)  // hopper/gradient.cu
INFONCE_HOPPER_GRADIENT_BOTH(INFONCE_ROW, hopper_gradient_both)          // hopper/gradient.cu
INFONCE_TILE(INFONCE_ROW, statistics)                                    // similarity/statistics.cu
INFONCE_TILE(INFONCE_ROW, exponentials)                                  // similarity/exponentials.cu
INFONCE_TILE(INFONCE_ROW, weights)                                       // similarity/weights.cu
INFONCE_TILE(INFONCE_ROW, statistics_one)                                // similarity/option_statistics.cu
INFONCE_TILE(INFONCE_ROW, statistics_sets)                               // similarity/option_statistics.cu
INFONCE_TILE(INFONCE_ROW, statistics_two)                                // similarity/option_statistics.cu
INFONCE_TILE(INFONCE_ROW, statistics_point)                              // similarity/option_statistics.cu
INFONCE_TILE(INFONCE_ROW, weights_one)                                   // similarity/option_weights.cu
INFONCE_TILE(INFONCE_ROW, weights_sets)                                  // similarity/option_weights.cu
INFONCE_TILE(INFONCE_ROW, weights_two)                                   // similarity/option_weights.cu
INFONCE_TILE(INFONCE_ROW, weights_point)                                 // similarity/option_weights.cu
INFONCE_TILE(INFONCE_ROW, scores)                                        // similarity/top_k.cu
INFONCE_TILE(INFONCE_ROW, product)                                       // similarity/product.cu
INFONCE_TILE(INFONCE_ROW, product_transposed)                            // similarity/product.cu
INFONCE_HOPPER_SCORES(INFONCE_ROW, hopper_statistics)                    // hopper/statistics.cu
INFONCE_HOPPER_EXPONENTIALS(INFONCE_ROW, hopper_exponentials)            // hopper/exponentials.cu
INFONCE_HOPPER_WEIGHTS(INFONCE_ROW, hopper_weights)                      // hopper/weights.cu
INFONCE_HOPPER_WEIGHTS(INFONCE_ROW, hopper_statistics_one)               // hopper/option_statistics.cu
INFONCE_HOPPER_WEIGHTS(INFONCE_ROW, hopper_statistics_sets)              // hopper/option_statistics.cu
INFONCE_HOPPER_WEIGHTS(INFONCE_ROW, hopper_statistics_two)               // hopper/option_statistics.cu
INFONCE_HOPPER_WEIGHTS(INFONCE_ROW, hopper_statistics_point)             // hopper/option_statistics.cu
INFONCE_HOPPER_WEIGHTS(INFONCE_ROW, hopper_weights_one)                  // hopper/option_weights.cu
INFONCE_HOPPER_WEIGHTS(INFONCE_ROW, hopper_weights_sets)                 // hopper/option_weights.cu
INFONCE_HOPPER_WEIGHTS(INFONCE_ROW, hopper_weights_two)                  // hopper/option_weights.cu
INFONCE_HOPPER_WEIGHTS(INFONCE_ROW, hopper_weights_point)                // hopper/option_weights.cu
INFONCE_HOPPER_SCORES(INFONCE_ROW, hopper_scores)                        // hopper/top_k.cu
INFONCE_HOPPER_SCORES(INFONCE_ROW, hopper_best)                          // hopper/top_k.cu
INFONCE_HOPPER_PRODUCT(INFONCE_ROW, hopper_product)                      // hopper/product.cu
INFONCE_HOPPER_PRODUCT(INFONCE_ROW, hopper_product_transposed)           // hopper/product.cu
#undef INFONCE_ROW

// Kernels without a tile: threads, blocks per SM, shared bytes. One that works as one block has up to 24 shared bytes a
// warp, for its reductions (similarity/row_blocks.h).
struct positives : Plain<256, 1, 0> {};             // similarity/positives.cu
struct bound_logits : Plain<1024, 1, 768> {};       // similarity/positives.cu
struct mean_positives : Plain<1024, 1, 768> {};     // similarity/positives.cu
struct count_positives : Plain<1024, 1, 768> {};    // similarity/positives.cu
struct offset_positives : Plain<256, 1, 0> {};      // similarity/positives.cu
struct labelled_positives : Plain<256, 1, 0> {};    // similarity/positives.cu
struct group_anchors : Plain<1024, 1, 65664> {};    // similarity/positives.cu
struct find_groups : Plain<256, 1, 0> {};           // similarity/positives.cu
struct combine_statistics : Plain<128, 1, 0> {};    // similarity/rows.cu
struct merge_statistics : Plain<128, 1, 0> {};      // similarity/rows.cu
struct find_weight_shift : Plain<1024, 1, 768> {};  // similarity/rows.cu
struct fit_exponentials : Plain<1024, 1, 768> {};   // similarity/rows.cu
struct fold_rows : Plain<256, 1, 0> {};             // similarity/rows.cu
struct finish_gradient : Plain<256, 4, 4096> {};    // similarity/rows.cu
struct reduce : Plain<1024, 1, 768> {};             // similarity/rows.cu
struct sum_columns : Plain<1024, 1, 8192> {};       // similarity/bias.cu
struct finish_bias : Plain<256, 1, 0> {};           // similarity/bias.cu
struct finish_logit_bias : Plain<1024, 1, 768> {};  // similarity/bias.cu
struct target_rows : Plain<256, 1, 128> {};         // similarity/targets.cu
struct select_best : Plain<128, 1, 0> {};           // similarity/top_k.cu
struct select_listed : Plain<128, 1, 0> {};         // similarity/top_k.cu
struct triplet_rows : Plain<256, 1, 0> {};          // rowwise/triplet.cu
struct triplet_gradient : Plain<256, 1, 0> {};      // rowwise/triplet.cu
struct triplet_loss : Plain<1024, 1, 256> {};       // rowwise/triplet.cu
struct normalize : Plain<256, 1, 0> {};             // rowwise/normalize.cu
struct normalize_backward : Plain<256, 1, 0> {};    // rowwise/normalize.cu
struct quantize_rows : Plain<256, 1, 0> {};         // rowwise/quantize.cu
struct momentum_update : Plain<256, 4, 0> {};       // rowwise/state.cu
struct update_rows : Plain<256, 1, 0> {};           // rowwise/state.cu
struct copy_rows : Plain<256, 1, 0> {};             // rowwise/state.cu
struct advance_cursor : Plain<32, 1, 0> {};         // rowwise/state.cu

}  // namespace list
}  // namespace infonce
