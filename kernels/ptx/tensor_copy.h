// TMA copies of boxes from a matrix to shared memory, issued by one thread (cp.async.bulk.tensor, sm_90). A map made by
// the CPU describes the matrix and the size of its boxes. Elements outside the matrix become zero. An mbarrier counts
// the bytes of the whole box.
#pragma once

#include "ptx/kernel.h"
#include "ptx/mbarrier.h"
#include "ptx/shared.h"

namespace infonce {

// A row-major matrix and its box: 128 bytes of some rows, swizzled as slabs are (a CUtensorMap of
// cuTensorMapEncodeTiled). It is passed inside a kernel's parameters.
struct alignas(64) TensorMap {
    uint64_t words[16];
};

// The box whose first element is (row, column); `column` counts elements. `to` is a multiple of 1,024.
#ifdef __CUDACC__
INFONCE_DEVICE void copy_box(SharedAddress to, const TensorMap& map, uint32_t column, uint32_t row, SharedAddress barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
        "l"(&map), "r"(column), "r"(row), "r"(barrier)
        : "memory");
}
// The same into each block of the cluster whose rank's bit is set in `blocks`. `to` and `barrier` are addresses of this
// block and name the same offsets in the others; each block's mbarrier counts the box's bytes (PTX ISA,
// "cp.async.bulk.tensor": .multicast::cluster).
INFONCE_DEVICE void multicast_box(SharedAddress to, const TensorMap& map, uint32_t column, uint32_t row, SharedAddress barrier,
                                  uint16_t blocks) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
        " [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
        "l"(&map), "r"(column), "r"(row), "r"(barrier), "h"(blocks)
        : "memory");
}
// Executed before the first copy: brings the map into the cache that copies read it through.
INFONCE_DEVICE void prefetch_map(const TensorMap& map) { asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory"); }
#else
inline void copy_box(SharedAddress to, const TensorMap& map, uint32_t column, uint32_t row, SharedAddress barrier, INFONCE_SITE) {
    emulator::copy_box(to, map.words, column, row, barrier, site);
}
inline void multicast_box(SharedAddress to, const TensorMap& map, uint32_t column, uint32_t row, SharedAddress barrier,
                          uint16_t blocks, INFONCE_SITE) {
    emulator::multicast_box(to, map.words, column, row, barrier, blocks, site);
}
inline void prefetch_map(const TensorMap&) {}
#endif

}  // namespace infonce
