// Declares kernels, orders them after earlier launches, and gives thread and block indices. nvcc compiles this as
// device code; a C++ compiler builds it for the emulator, where every thread is a fiber (kernels/emulator).
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define INFONCE_DEVICE __device__ __forceinline__
// Before a loop whose arrays have to stay in registers.
#define INFONCE_UNROLL _Pragma("unroll")
// A kernel with blocks of THREADS threads, at least MIN_BLOCKS resident an SM. Its body sees the parameters as `p` and
// starts after wait_for_launches_before.
#define INFONCE_KERNEL(NAME, PARAMS, THREADS, MIN_BLOCKS) \
    INFONCE_ENTRY(NAME, PARAMS, __launch_bounds__(THREADS, MIN_BLOCKS), wait_for_launches_before())
// The same with a prologue that needs no global memory: the body calls wait_for_launches_before itself.
#define INFONCE_PROLOGUE_KERNEL(NAME, PARAMS, THREADS, MIN_BLOCKS) \
    INFONCE_ENTRY(NAME, PARAMS, __launch_bounds__(THREADS, MIN_BLOCKS), )
// With a prologue, in clusters of CLUSTER blocks, consecutive in x (ptx/cluster.h). The grid's x is a multiple of
// CLUSTER. sm_90 and newer. (PTX ISA, "Cluster Dimension Directives": .reqnctapercluster; every such device runs 8.)
#define INFONCE_CLUSTER_KERNEL(NAME, PARAMS, THREADS, MIN_BLOCKS, CLUSTER)      \
    static_assert(CLUSTER >= 1 && CLUSTER <= 8, "a cluster has 1 to 8 blocks"); \
    INFONCE_ENTRY(NAME, PARAMS, __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, MIN_BLOCKS), )
#define INFONCE_ENTRY(NAME, PARAMS, ATTRIBUTES, WAIT)                                \
    static INFONCE_DEVICE void body_of_##NAME(const PARAMS& p);                      \
    extern "C" __global__ void ATTRIBUTES NAME(const __grid_constant__ PARAMS p) {   \
        let_next_launch_start();                                                     \
        WAIT;                                                                        \
        body_of_##NAME(p);                                                           \
    }                                                                                \
    static INFONCE_DEVICE void body_of_##NAME(const PARAMS& p)
#else
#include "emulator/interface.h"
#define INFONCE_DEVICE inline
#define INFONCE_UNROLL
#define INFONCE_KERNEL(NAME, PARAMS, THREADS, MIN_BLOCKS) \
    INFONCE_ENTRY(NAME, PARAMS, THREADS, 1, wait_for_launches_before())
#define INFONCE_PROLOGUE_KERNEL(NAME, PARAMS, THREADS, MIN_BLOCKS) INFONCE_ENTRY(NAME, PARAMS, THREADS, 1, )
#define INFONCE_CLUSTER_KERNEL(NAME, PARAMS, THREADS, MIN_BLOCKS, CLUSTER)      \
    static_assert(CLUSTER >= 1 && CLUSTER <= 8, "a cluster has 1 to 8 blocks"); \
    INFONCE_ENTRY(NAME, PARAMS, THREADS, CLUSTER, )
#define INFONCE_ENTRY(NAME, PARAMS, THREADS, CLUSTER, WAIT)            \
    static void NAME(const PARAMS& p);                                 \
    static const ::infonce::emulator::Registration registration_of_##NAME( \
        #NAME, THREADS, sizeof(PARAMS), CLUSTER, [](const void* p) {   \
            WAIT;                                                      \
            NAME(*static_cast<const PARAMS*>(p));                      \
        });                                                            \
    static void NAME(const PARAMS& p)
#endif

namespace infonce {

// Launches of a stream overlap where the attribute allows it (src/cuda/launch.rs): blocks become resident while the
// launch before still runs. Only the sm_90a image has the instructions; elsewhere these functions are empty. PTX ISA,
// "griddepcontrol"; CUDA C++ Programming Guide, "Programmatic Dependent Launch".
#ifdef __CUDACC__
// Waits until the launch before has ended and its writes are visible. Every thread of every kernel waits, on every
// path, before it accesses global memory. So a launch ends only after the one before it, and behind this wait all
// earlier launches have ended.
INFONCE_DEVICE void wait_for_launches_before() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Every kernel starts with this. When all blocks of a launch have executed it, or ended, blocks of the next launch may
// start where there is space. It orders nothing: the next launch waits for the end of this one.
INFONCE_DEVICE void let_next_launch_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
#else
inline void wait_for_launches_before() { emulator::wait_for_launches_before(); }
#endif

struct Index {
    uint32_t x, y, z;
};

#ifdef __CUDACC__
INFONCE_DEVICE uint32_t thread_index() { return threadIdx.x; }
INFONCE_DEVICE uint32_t thread_count() { return blockDim.x; }
INFONCE_DEVICE Index block_index() { return {blockIdx.x, blockIdx.y, blockIdx.z}; }
INFONCE_DEVICE Index grid_size() { return {gridDim.x, gridDim.y, gridDim.z}; }
#else
inline uint32_t thread_index() { return emulator::current.thread; }
inline uint32_t thread_count() { return emulator::current.threads; }
inline Index block_index() { return {emulator::current.block[0], emulator::current.block[1], emulator::current.block[2]}; }
inline Index grid_size() { return {emulator::current.grid[0], emulator::current.grid[1], emulator::current.grid[2]}; }
#endif

}  // namespace infonce
