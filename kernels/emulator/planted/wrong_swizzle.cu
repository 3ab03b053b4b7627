// Reverses the order of 32 rows of 64 bytes through a swizzled slab. Planted: the reader uses the swizzle of 64-byte
// rows, the writer that of the slab's 128. Where the two differ, the reader reads chunks that the short rows leave
// empty.
#include "ptx/barrier.h"
#include "ptx/global.h"
#include "ptx/kernel.h"
#include "ptx/shared.h"
#include "tile/slab.h"

namespace infonce {

struct SwizzleParams {
    const Vector16* x;  // 32 rows of 4 chunks
    Vector16* y;
};

constexpr int SWIZZLE_ROWS = 32, SWIZZLE_CHUNKS = 4, SWIZZLE_THREADS = SWIZZLE_ROWS * SWIZZLE_CHUNKS;

template <bool PLANTED>
INFONCE_DEVICE void shuffled(const SwizzleParams& p) {
    const int row = int(thread_index()) / SWIZZLE_CHUNKS, chunk = int(thread_index()) % SWIZZLE_CHUNKS;
    store_shared(chunk_address(shared_base(), row, chunk), load_global(p.x + thread_index()));
    block_barrier();
    const int from = SWIZZLE_ROWS - 1 - row;
    SharedAddress source = chunk_address(shared_base(), from, chunk);
    if (PLANTED) source = shared_base() + from * SLAB_BYTES + (chunk ^ (from & 3)) * CHUNK_BYTES;
    const auto numbers = load_shared<Vector16>(source);  // planted
    store_global(p.y + thread_index(), numbers);
}

INFONCE_PLANTED(planted_wrong_swizzle, SwizzleParams, SWIZZLE_THREADS) { shuffled<true>(p); }
INFONCE_PLANTED(planted_wrong_swizzle_sound, SwizzleParams, SWIZZLE_THREADS) { shuffled<false>(p); }

}  // namespace infonce
