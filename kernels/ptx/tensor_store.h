// TMA stores of boxes from shared memory to a matrix, issued by one thread (cp.async.bulk.tensor, sm_90), with the maps
// of tensor_copy.h. Elements outside the matrix are not written.
//
// Threads that wrote a box's source fence it before the store (async_proxy.h). The issuing thread commits groups, and
// waits until a group's sources have been read before that shared memory is written again or the thread ends. The
// matrix is complete at the grid's end; no block of this grid reads it. PTX ISA, "cp.async.bulk.tensor",
// "cp.async.bulk.commit_group", "cp.async.bulk.wait_group" (.read: sources only).
#pragma once

#include "ptx/kernel.h"
#include "ptx/shared.h"
#include "ptx/tensor_copy.h"

namespace infonce {

// The box whose first element is (row, column); `column` counts elements. `from` is a multiple of 1,024.
#ifdef __CUDACC__
INFONCE_DEVICE void store_box(const TensorMap& map, uint32_t column, uint32_t row, SharedAddress from) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map), "r"(column),
                 "r"(row), "r"(from)
                 : "memory");
}
INFONCE_DEVICE void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Waits until at most PENDING of the thread's groups have sources that are still being read.
template <int PENDING>
INFONCE_DEVICE void wait_stores_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
}
#else
inline void store_box(const TensorMap& map, uint32_t column, uint32_t row, SharedAddress from, INFONCE_SITE) {
    emulator::store_box(map.words, column, row, from, site);
}
inline void commit_stores(INFONCE_SITE) { emulator::commit_stores(site); }
template <int PENDING>
inline void wait_stores_read(INFONCE_SITE) {
    emulator::wait_stores_read(PENDING, site);
}
#endif

}  // namespace infonce
