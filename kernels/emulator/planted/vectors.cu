// Kernels that compute a vector y from a vector x, each with one planted mistake and as a sound twin:
//   missing_barrier  no barrier between the writes to shared memory and the first addition
//   missing_wait     copies of cp.async are committed, but not waited for
//   wrong_swizzle    the reader uses the swizzle of 64-byte rows, the writer that of the slab's 128. Where the two
//                    differ, the reader reads chunks that the short rows leave empty
//   early_arrival    a warp arrives at an mbarrier before it has written what it hands over, so the wait orders nothing
//   extra_arrival    warp 0, which has arrived with the announced bytes, arrives once more
//   tail_read        where the length is not a multiple of the block, one element too many is read
//   tail_write       the same, written
#include "ptx/barrier.h"
#include "ptx/cp_async.h"
#include "ptx/global.h"
#include "ptx/kernel.h"
#include "ptx/mbarrier.h"
#include "ptx/shared.h"
#include "ptx/tensor_copy.h"
#include "tile/slab.h"

namespace infonce {

struct VectorParams {
    const float* x;
    float* y;
    uint32_t count;  // of x
};

#define INFONCE_TWINS(NAME, PARAMS, THREADS)                            \
    INFONCE_PLANTED(planted_##NAME, PARAMS, THREADS) { NAME<true>(p); } \
    INFONCE_PLANTED(planted_##NAME##_sound, PARAMS, THREADS) { NAME<false>(p); }

// A block's sum of 128 elements, by halving.
template <bool PLANTED>
INFONCE_DEVICE void missing_barrier(const VectorParams& p) {
    const uint32_t i = block_index().x * 128 + thread_index();
    const SharedAddress slot = shared_base() + thread_index() * 4;
    store_shared(slot, i < p.count ? load_global(p.x + i) : 0.0f);
    if (!PLANTED) block_barrier();
    for (uint32_t half = 64; half > 0; half /= 2) {
        if (thread_index() < half) {
            const float other = load_shared<float>(slot + half * 4);  // missing_barrier
            store_shared(slot, load_shared<float>(slot) + other);
        }
        block_barrier();
    }
    if (thread_index() == 0) store_global(p.y + block_index().x, load_shared<float>(slot));
}
INFONCE_TWINS(missing_barrier, VectorParams, 128)

// Reverses blocks of 256 elements, staged in shared memory; `count` is a multiple of 4.
template <bool PLANTED>
INFONCE_DEVICE void missing_wait(const VectorParams& p) {
    const uint32_t first = block_index().x * 256, own = first + 4 * thread_index();
    copy_async_16(shared_base() + 16 * thread_index(), own < p.count ? p.x + own : p.x, own < p.count);
    commit_copies();
    if (!PLANTED) wait_copies<0>();
    block_barrier();
    for (uint32_t i = thread_index(); i < 256; i += 64) {
        const float number = load_shared<float>(shared_base() + 4 * (255 - i));  // missing_wait
        store_global(p.y + first + i, number);
    }
}
INFONCE_TWINS(missing_wait, VectorParams, 64)

// Reverses the order of 32 rows of 64 bytes through a swizzled slab, a chunk a thread.
template <bool PLANTED>
INFONCE_DEVICE void wrong_swizzle(const VectorParams& p) {
    const int row = int(thread_index()) / 4, chunk = int(thread_index()) % 4, from = 31 - row;
    const Vector16* x = reinterpret_cast<const Vector16*>(p.x);
    store_shared(chunk_address(shared_base(), row, chunk), load_global(x + thread_index()));
    block_barrier();
    SharedAddress source = chunk_address(shared_base(), from, chunk);
    if (PLANTED) source = shared_base() + from * SLAB_BYTES + (chunk ^ (from & 3)) * CHUNK_BYTES;
    const auto numbers = load_shared<Vector16>(source);  // wrong_swizzle
    store_global(reinterpret_cast<Vector16*>(p.y) + thread_index(), numbers);
}
INFONCE_TWINS(wrong_swizzle, VectorParams, 128)

// Reverses 32 elements, which one warp hands to another through shared memory and an mbarrier.
template <bool PLANTED>
INFONCE_DEVICE void early_arrival(const VectorParams& p) {
    const uint32_t lane = thread_index() % 32;
    const SharedAddress barrier = shared_base(), numbers = barrier + 16;
    if (thread_index() == 0) mbarrier_init(barrier, 32);
    block_barrier();
    if (thread_index() < 32) {
        if (PLANTED) mbarrier_arrive(barrier);
        store_shared(numbers + 4 * lane, load_global(p.x + lane));
        if (!PLANTED) mbarrier_arrive(barrier);
    } else {
        mbarrier_wait(barrier, 0);
        const float number = load_shared<float>(numbers + 4 * (31 - lane));  // early_arrival
        store_global(p.y + lane, number);
    }
}
INFONCE_TWINS(early_arrival, VectorParams, 64)

struct ArrivalParams {
    TensorMap x;  // rows of 32 elements; a block has 4 of them
    float* y;
    uint32_t padding[14];
};

// Reverses 128 elements that one box copy brings. A thread of each of the four warps arrives at its mbarrier.
template <bool PLANTED>
INFONCE_DEVICE void extra_arrival(const ArrivalParams& p) {
    const uint32_t thread = thread_index(), from = 127 - thread;
    const SharedAddress tile = shared_base(), barrier = tile + 512;
    if (thread == 0) {
        mbarrier_init(barrier, 4);
        fence_mbarrier_init();
    }
    block_barrier();
    if (thread == 0) {
        mbarrier_arrive_expect(barrier, 512);
        copy_box(tile, p.x, 0, block_index().x * 4, barrier);
    }
    if (thread % 32 == 0 && (PLANTED || thread > 0)) mbarrier_arrive(barrier);  // extra_arrival
    mbarrier_wait(barrier, 0);
    const SharedAddress chunk = chunk_address(tile, int(from / 32), int(from % 32 / 4));
    store_global(p.y + block_index().x * 128 + thread, load_shared<float>(chunk + from % 4 * 4));
}
INFONCE_TWINS(extra_arrival, ArrivalParams, 128)

// Twice a vector.
template <bool PLANTED>
INFONCE_DEVICE void tail_read(const VectorParams& p) {
    const uint32_t i = block_index().x * 128 + thread_index();
    if (PLANTED ? i > p.count : i >= p.count) return;
    const float number = load_global(p.x + i);  // tail_read
    store_global(p.y + i, 2.0f * number);
}
INFONCE_TWINS(tail_read, VectorParams, 128)

template <bool PLANTED>
INFONCE_DEVICE void tail_write(const VectorParams& p) {
    const uint32_t i = block_index().x * 128 + thread_index();
    const float number = i < p.count ? load_global(p.x + i) : 0.0f;
    if (PLANTED ? i > p.count : i >= p.count) return;
    store_global(p.y + i, 2.0f * number);  // tail_write
}
INFONCE_TWINS(tail_write, VectorParams, 128)

}  // namespace infonce
