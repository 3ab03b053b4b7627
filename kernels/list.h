// Every kernel of the crate, a row each: its tile and what a block takes. The sources expand the rows into their
// builds; build/list.rs reads this file, and src/launch/kernels.rs has the rows as Rust. A source asserts that its
// constants are those of its rows.
#pragma once

#include <cstdint>

#include "ptx/types.h"

namespace infonce {

// Constants that the launches need, too.
constexpr int SLAB_BYTES = 128;             // of a row of a slab or of a box
constexpr uint32_t SLAB_ELEMENTS = 64;       // of 16 bits in such a row
constexpr int WEIGHTS_BOX_ROWS = 16;        // of a box of stored weights, the rows of a warp
constexpr int WARP_CANDIDATES = 4;          // that a warp of `positives` takes together
constexpr uint32_t DIGIT_BITS = 4;          // by which a pass of `group_anchors` sorts
constexpr int NORMALIZE_QUADS = 8;          // quads of a matrix that a lane of `normalize` holds
constexpr int BACKWARD_QUADS = 4;           // the same of `normalize_backward`
constexpr int QUANTIZE_QUADS = 8;           // the same of `quantize_rows`
constexpr uint32_t MOMENTUM_CHUNK = 4096;   // elements of a block of `momentum_update`
constexpr uint32_t LIST_CAPACITY = 256;     // entries of a list of the best scores
constexpr uint32_t LIST_OWNERS = 4;         // lists of a row, one for each thread that holds it
constexpr uint32_t LIST_ROWS = 8;           // rows whose lists lie together

namespace list {

// A kernel with a tile. It serves rows of up to DIM elements, 0: of any length.
template <class Type, int D, int R, int C, int S, int N, int FIT, int CTAS, int BYTES>
struct Tiled {
    using T = Type;
    static constexpr int DIM = D, ROWS = R, COLUMNS = C, STAGES = S;
    static constexpr int THREADS = N, MIN_BLOCKS = 1, CLUSTER = CTAS, SHARED_BYTES = BYTES;
};

// A kernel that works row by row, or in one block.
template <int N, int MIN, int BYTES>
struct Plain {
    static constexpr int THREADS = N, MIN_BLOCKS = MIN, CLUSTER = 1, SHARED_BYTES = BYTES;
};

// Whether `Tile`, which a source is written for, is that of the kernel's row.
template <class Kernel, class Tile>
constexpr bool describes = Kernel::ROWS == Tile::ROWS && Kernel::COLUMNS == Tile::COLUMNS &&
                           Kernel::STAGES == Tile::STAGES && Kernel::THREADS == Tile::THREADS &&
                           Kernel::SHARED_BYTES == Tile::SHARED_BYTES;

// A row of kernels of one type or more: NAME_type_D, or NAME_type where D is 0.
#define INFONCE_16_BIT(BUILD, NAME, D, ...)                                \
    BUILD(INFONCE_NAME_##D(NAME, bf16), list::Tiled<bf16, D, __VA_ARGS__>) \
    BUILD(INFONCE_NAME_##D(NAME, f16), list::Tiled<f16, D, __VA_ARGS__>)
#define INFONCE_32_BIT(BUILD, NAME, D, ...)                                \
    BUILD(INFONCE_NAME_##D(NAME, f32), list::Tiled<float, D, __VA_ARGS__>) \
    BUILD(INFONCE_NAME_##D(NAME, tf32), list::Tiled<tf32, D, __VA_ARGS__>)
#define INFONCE_8_BIT(BUILD, NAME, D, ...) BUILD(INFONCE_NAME_##D(NAME, e4m3), list::Tiled<e4m3, D, __VA_ARGS__>)
#define INFONCE_FOUR_TYPES(BUILD, NAME, ...) \
    INFONCE_16_BIT(BUILD, NAME, __VA_ARGS__) INFONCE_32_BIT(BUILD, NAME, __VA_ARGS__)
#define INFONCE_PLAIN(BUILD, NAME, ...) BUILD(NAME, list::Plain<__VA_ARGS__>)
#define INFONCE_NAME_0(NAME, T) NAME##_##T
#define INFONCE_NAME_64(NAME, T) NAME##_##T##_64
#define INFONCE_NAME_128(NAME, T) NAME##_##T##_128
#define INFONCE_NAME_256(NAME, T) NAME##_##T##_256
#define INFONCE_NAME_512(NAME, T) NAME##_##T##_512

// Kernels with a tile: name, D, rows × columns of the tile (of the fused gradients owner rows × streamed rows), stages,
// threads of a block, blocks that fit an SM of Hopper, blocks of a cluster, dynamic shared bytes.

// ---- similarity/gradient.cu
#define INFONCE_GRADIENT_ONLINE(BUILD)                                        \
    INFONCE_16_BIT(BUILD, gradient_online, 64, 128, 64, 3, 256, 1, 1, 40960)  \
    INFONCE_16_BIT(BUILD, gradient_online, 128, 128, 64, 3, 256, 1, 1, 81920) \
    INFONCE_16_BIT(BUILD, gradient_online, 256, 128, 32, 2, 256, 1, 1, 98304) \
    INFONCE_32_BIT(BUILD, gradient_online, 64, 64, 32, 3, 128, 3, 1, 40960)   \
    INFONCE_32_BIT(BUILD, gradient_online, 128, 64, 32, 3, 128, 2, 1, 81920)  \
    INFONCE_32_BIT(BUILD, gradient_online, 256, 64, 16, 2, 128, 2, 1, 98304)
#define INFONCE_GRADIENT_KNOWN(BUILD)                                        \
    INFONCE_16_BIT(BUILD, gradient_known, 64, 128, 64, 3, 256, 1, 1, 40960)  \
    INFONCE_16_BIT(BUILD, gradient_known, 128, 128, 64, 3, 256, 1, 1, 81920) \
    INFONCE_16_BIT(BUILD, gradient_known, 256, 128, 32, 2, 256, 1, 1, 98304) \
    INFONCE_32_BIT(BUILD, gradient_known, 64, 64, 32, 3, 128, 3, 1, 40960)   \
    INFONCE_32_BIT(BUILD, gradient_known, 128, 64, 32, 3, 128, 2, 1, 81920)  \
    INFONCE_32_BIT(BUILD, gradient_known, 256, 64, 16, 2, 128, 2, 1, 98304)

// ---- hopper/gradient.cu
// At D = 256 the sums fill half of the registers: what is left holds 64 logits a thread and no second term.
#define INFONCE_HOPPER_GRADIENT_ONLINE(BUILD)                                          \
    INFONCE_16_BIT(BUILD, hopper_gradient_online, 64, 128, 128, 5, 384, 1, 1, 100960)  \
    INFONCE_16_BIT(BUILD, hopper_gradient_online, 128, 128, 128, 5, 384, 1, 1, 199264) \
    INFONCE_16_BIT(BUILD, hopper_gradient_online, 256, 128, 64, 4, 384, 1, 1, 197712)
#define INFONCE_HOPPER_GRADIENT_OWNER(BUILD)                                          \
    INFONCE_16_BIT(BUILD, hopper_gradient_owner, 64, 128, 128, 5, 384, 1, 1, 100960)  \
    INFONCE_16_BIT(BUILD, hopper_gradient_owner, 128, 128, 128, 5, 384, 1, 1, 199264) \
    INFONCE_16_BIT(BUILD, hopper_gradient_owner, 256, 128, 64, 4, 384, 1, 1, 197712)
#define INFONCE_HOPPER_GRADIENT_STREAMED(BUILD)                                          \
    INFONCE_16_BIT(BUILD, hopper_gradient_streamed, 64, 128, 128, 5, 384, 1, 1, 103520)  \
    INFONCE_16_BIT(BUILD, hopper_gradient_streamed, 128, 128, 128, 5, 384, 1, 1, 201824) \
    INFONCE_16_BIT(BUILD, hopper_gradient_streamed, 256, 128, 64, 4, 384, 1, 1, 198736)
#define INFONCE_HOPPER_GRADIENT_BOTH(BUILD)                                       \
    INFONCE_16_BIT(BUILD, hopper_gradient_both, 64, 128, 96, 6, 384, 1, 1, 92528) \
    INFONCE_16_BIT(BUILD, hopper_gradient_both, 128, 128, 96, 6, 384, 1, 1, 182640)

// ---- similarity/statistics.cu
#define INFONCE_STATISTICS(BUILD) INFONCE_FOUR_TYPES(BUILD, statistics, 0, 128, 128, 3, 256, 1, 1, 98304)
// ---- similarity/exponentials.cu
#define INFONCE_EXPONENTIALS(BUILD) INFONCE_FOUR_TYPES(BUILD, exponentials, 0, 128, 128, 3, 256, 1, 1, 98304)
// ---- similarity/weights.cu
#define INFONCE_WEIGHTS(BUILD) INFONCE_FOUR_TYPES(BUILD, weights, 0, 128, 128, 3, 256, 1, 1, 98304)
// ---- similarity/top_k.cu
#define INFONCE_SCORES(BUILD) INFONCE_FOUR_TYPES(BUILD, scores, 0, 128, 128, 3, 256, 1, 1, 98304)
// ---- similarity/product.cu
#define INFONCE_PRODUCT(BUILD) INFONCE_FOUR_TYPES(BUILD, product, 0, 128, 128, 3, 256, 1, 1, 98304)
#define INFONCE_PRODUCT_TRANSPOSED(BUILD) \
    INFONCE_FOUR_TYPES(BUILD, product_transposed, 0, 128, 128, 3, 256, 1, 1, 98304)

// Up to the D of a name the anchors stay in shared memory, so that a tile costs the traffic of its candidates alone.
// ---- hopper/statistics.cu
#define INFONCE_HOPPER_STATISTICS(BUILD)                                          \
    INFONCE_16_BIT(BUILD, hopper_statistics, 0, 128, 256, 4, 384, 1, 2, 231536)   \
    INFONCE_16_BIT(BUILD, hopper_statistics, 256, 128, 256, 4, 384, 1, 2, 231536) \
    INFONCE_8_BIT(BUILD, hopper_statistics, 0, 128, 256, 4, 384, 1, 2, 231536)    \
    INFONCE_8_BIT(BUILD, hopper_statistics, 512, 128, 256, 4, 384, 1, 2, 231536)
// ---- hopper/exponentials.cu
#define INFONCE_HOPPER_EXPONENTIALS(BUILD) \
    INFONCE_16_BIT(BUILD, hopper_exponentials, 0, 128, 256, 4, 384, 1, 2, 231536)
// ---- hopper/weights.cu
#define INFONCE_HOPPER_WEIGHTS(BUILD)                                        \
    INFONCE_16_BIT(BUILD, hopper_weights, 0, 128, 256, 4, 384, 1, 2, 231536) \
    INFONCE_16_BIT(BUILD, hopper_weights, 256, 128, 256, 4, 384, 1, 2, 231536)
// ---- hopper/top_k.cu
#define INFONCE_HOPPER_SCORES(BUILD)                                          \
    INFONCE_16_BIT(BUILD, hopper_scores, 0, 128, 256, 4, 384, 1, 2, 231536)   \
    INFONCE_16_BIT(BUILD, hopper_scores, 256, 128, 256, 4, 384, 1, 2, 231536) \
    INFONCE_8_BIT(BUILD, hopper_scores, 0, 128, 256, 4, 384, 1, 2, 231536)    \
    INFONCE_8_BIT(BUILD, hopper_scores, 512, 128, 256, 4, 384, 1, 2, 231536)
#define INFONCE_HOPPER_BEST(BUILD)                                          \
    INFONCE_16_BIT(BUILD, hopper_best, 0, 128, 256, 4, 384, 1, 2, 231536)   \
    INFONCE_16_BIT(BUILD, hopper_best, 256, 128, 256, 4, 384, 1, 2, 231536) \
    INFONCE_8_BIT(BUILD, hopper_best, 0, 128, 256, 4, 384, 1, 2, 231536)    \
    INFONCE_8_BIT(BUILD, hopper_best, 512, 128, 256, 4, 384, 1, 2, 231536)
// ---- hopper/product.cu
#define INFONCE_HOPPER_PRODUCT(BUILD) INFONCE_16_BIT(BUILD, hopper_product, 0, 128, 256, 4, 384, 1, 2, 196672)
#define INFONCE_HOPPER_PRODUCT_TRANSPOSED(BUILD) \
    INFONCE_16_BIT(BUILD, hopper_product_transposed, 0, 128, 256, 4, 384, 1, 2, 196672)

// Other kernels: name, threads of a block, blocks that registers are to leave space for on an SM, dynamic shared bytes.
// A kernel of one block leaves up to 24 bytes a warp there.
#define INFONCE_PLAIN_KERNELS(BUILD)                      \
    /* ---- similarity/positives.cu */                    \
    INFONCE_PLAIN(BUILD, positives, 256, 1, 0)            \
    INFONCE_PLAIN(BUILD, bound_logits, 1024, 1, 768)      \
    INFONCE_PLAIN(BUILD, mean_positives, 1024, 1, 768)    \
    INFONCE_PLAIN(BUILD, offset_positives, 256, 1, 0)     \
    INFONCE_PLAIN(BUILD, labelled_positives, 256, 1, 0)   \
    INFONCE_PLAIN(BUILD, group_anchors, 1024, 1, 65664)   \
    INFONCE_PLAIN(BUILD, find_groups, 256, 1, 0)          \
    /* ---- similarity/rows.cu */                         \
    INFONCE_PLAIN(BUILD, combine_statistics, 128, 1, 0)   \
    INFONCE_PLAIN(BUILD, merge_statistics, 128, 1, 0)     \
    INFONCE_PLAIN(BUILD, find_weight_shift, 1024, 1, 768) \
    INFONCE_PLAIN(BUILD, fit_exponentials, 1024, 1, 768)  \
    INFONCE_PLAIN(BUILD, fold_rows, 256, 1, 0)            \
    INFONCE_PLAIN(BUILD, finish_gradient, 256, 4, 4096)   \
    INFONCE_PLAIN(BUILD, reduce, 1024, 1, 768)            \
    /* ---- similarity/top_k.cu */                        \
    INFONCE_PLAIN(BUILD, select_best, 128, 1, 0)          \
    INFONCE_PLAIN(BUILD, select_listed, 128, 1, 0)        \
    /* ---- rowwise/normalize.cu */                       \
    INFONCE_PLAIN(BUILD, normalize, 256, 1, 0)            \
    INFONCE_PLAIN(BUILD, normalize_backward, 256, 1, 0)   \
    /* ---- rowwise/quantize.cu */                        \
    INFONCE_PLAIN(BUILD, quantize_rows, 256, 1, 0)        \
    /* ---- rowwise/state.cu */                           \
    INFONCE_PLAIN(BUILD, momentum_update, 256, 4, 0)      \
    INFONCE_PLAIN(BUILD, copy_rows, 256, 1, 0)            \
    INFONCE_PLAIN(BUILD, advance_cursor, 32, 1, 0)

// list::NAME is the row of the kernel NAME.
#define INFONCE_ROW(KERNEL, ...)  \
    struct KERNEL : __VA_ARGS__ { \
    };
INFONCE_GRADIENT_ONLINE(INFONCE_ROW)
INFONCE_GRADIENT_KNOWN(INFONCE_ROW)
INFONCE_HOPPER_GRADIENT_ONLINE(INFONCE_ROW)
INFONCE_HOPPER_GRADIENT_OWNER(INFONCE_ROW)
INFONCE_HOPPER_GRADIENT_STREAMED(INFONCE_ROW)
INFONCE_HOPPER_GRADIENT_BOTH(INFONCE_ROW)
INFONCE_STATISTICS(INFONCE_ROW)
INFONCE_EXPONENTIALS(INFONCE_ROW)
INFONCE_WEIGHTS(INFONCE_ROW)
INFONCE_SCORES(INFONCE_ROW)
INFONCE_PRODUCT(INFONCE_ROW)
INFONCE_PRODUCT_TRANSPOSED(INFONCE_ROW)
INFONCE_HOPPER_STATISTICS(INFONCE_ROW)
INFONCE_HOPPER_EXPONENTIALS(INFONCE_ROW)
INFONCE_HOPPER_WEIGHTS(INFONCE_ROW)
INFONCE_HOPPER_SCORES(INFONCE_ROW)
INFONCE_HOPPER_BEST(INFONCE_ROW)
INFONCE_HOPPER_PRODUCT(INFONCE_ROW)
INFONCE_HOPPER_PRODUCT_TRANSPOSED(INFONCE_ROW)
INFONCE_PLAIN_KERNELS(INFONCE_ROW)
#undef INFONCE_ROW

}  // namespace list
}  // namespace infonce
