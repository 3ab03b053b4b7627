// One mistake a case, each on one line, which the emulator has to refuse. Case 0 is sound. Two warps.
#include "ptx/barrier.h"
#include "ptx/cp_async.h"
#include "ptx/global.h"
#include "ptx/kernel.h"
#include "ptx/mbarrier.h"
#include "ptx/shared.h"
#include "ptx/shuffle.h"

namespace infonce {

struct MistakeParams {
    const float* x;  // 64 elements
    float* y;        // 64 elements, unwritten
    uint32_t mistake;
};

constexpr uint32_t MISTAKE_THREADS = 64, MISTAKE_SHARED_BYTES = 512;

INFONCE_PLANTED(planted_mistakes, MistakeParams, MISTAKE_THREADS) {
    const uint32_t thread = thread_index();
    const SharedAddress shared = shared_base(), barrier = shared + 256;
    const char* bytes = reinterpret_cast<const char*>(p.x);
    float number = load_global(p.x + thread);
    // Cases from 16 on use an mbarrier of one arrival.
    if (p.mistake >= 16 && thread == 0) {
        mbarrier_init(barrier, 1);
        fence_mbarrier_init();
    }
    if (p.mistake >= 16) block_barrier();
    switch (p.mistake) {
        case 1: number += load_shared<float>(shared + 2); break;                     // planted 1
        case 2: store_shared(shared + MISTAKE_SHARED_BYTES, number); break;          // planted 2
        case 3: number += load_shared<float>(shared + 4 * thread); break;            // planted 3
        case 4: store_shared(shared, number); break;                                 // planted 4
        case 5:
            if (thread % 32 < 16)
                number += shuffle_xor(number, 1);  // planted 5
            else
                number -= shuffle_xor(number, 1);
            break;
        case 6:
            if (thread < 32) block_barrier();  // planted 6
            break;
        case 7: number += load_global(p.y + thread); break;                          // planted 7
        case 8: number += load_global(reinterpret_cast<const float*>(4096)); break;  // planted 8
        case 9: number += load_global(reinterpret_cast<const float*>(bytes + 2)); break;  // planted 9
        case 10: mbarrier_arrive(barrier); break;                                    // planted 10
        case 11: copy_async_16(shared + 16 * (thread % 16), p.x, true); break;       // planted 11
        case 12:
            if (thread == 0) store_shared(shared, number);
            block_barrier();
            if (thread == 63) store_shared(shared, number); else number += load_shared<float>(shared);  // planted 12
            break;
        case 13:
            for (int i = 0; i < 2 && thread < 32; ++i) named_arrive(1, MISTAKE_THREADS);  // planted 13
            break;
        case 14:
            if (thread < 32) named_arrive(1, MISTAKE_THREADS);  // planted 14
            break;
        case 16:
            if (thread == 0) mbarrier_arrive_expect(barrier, 1 << 20);  // planted 16
            break;
        case 17: store_shared(barrier + 4, number); break;  // planted 17
        case 18:
            if (thread == 0) mbarrier_init(barrier, 1);  // planted 18
            break;
        case 19:
            // A second thread knows the barrier only by its address.
            if (thread == 0) mbarrier_init(barrier + 8, MISTAKE_THREADS);
            mbarrier_arrive(barrier + 8);  // planted 19
            break;
        default: break;
    }
    store_global(p.y + thread, number);
}

// Every thread of every block writes the same element: the last one's value stays.
INFONCE_PLANTED(planted_last_writer, MistakeParams, MISTAKE_THREADS) {
    store_global(p.y, float(block_index().x * MISTAKE_THREADS + thread_index()));
}

}  // namespace infonce
