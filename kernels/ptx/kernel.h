// Declares kernels, orders them after earlier launches, and gives thread and block indices. nvcc compiles this as
// device code; a C++ compiler builds it for the emulator, where every thread is a fiber (kernels/emulator).
#pragma once

#include <cstdint>

#include "list.h"

#ifdef __CUDACC__
#define INFONCE_DEVICE __device__ __forceinline__
// Before a loop whose arrays have to stay in registers.
#define INFONCE_UNROLL _Pragma("unroll")
#define INFONCE_ENTRY(NAME, PARAMS, ATTRIBUTES, WAIT)                                                    \
    static INFONCE_DEVICE void body_of_##NAME(const PARAMS& p);                                          \
    extern "C" __global__ void ATTRIBUTES __launch_bounds__(list::NAME::THREADS, list::NAME::MIN_BLOCKS) \
        NAME(const __grid_constant__ PARAMS p) {                                                         \
        let_next_launch_start();                                                                         \
        WAIT;                                                                                            \
        body_of_##NAME(p);                                                                               \
    }                                                                                                    \
    static INFONCE_DEVICE void body_of_##NAME(const PARAMS& p)
#define INFONCE_CLUSTER(NAME) __cluster_dims__(list::NAME::CLUSTER, 1, 1)
#else
#include "emulator/interface.h"
#define INFONCE_DEVICE inline
#define INFONCE_UNROLL
#define INFONCE_ENTRY(NAME, PARAMS, ATTRIBUTES, WAIT) \
    INFONCE_REGISTERED(NAME, PARAMS, list::NAME::THREADS, list::NAME::CLUSTER, WAIT)
#define INFONCE_REGISTERED(NAME, PARAMS, THREADS, CLUSTER, WAIT)           \
    static void NAME(const PARAMS& p);                                     \
    static const ::infonce::emulator::Registration registration_of_##NAME( \
        #NAME, THREADS, sizeof(PARAMS), CLUSTER, [](const void* p) {       \
            WAIT;                                                          \
            NAME(*static_cast<const PARAMS*>(p));                          \
        });                                                                \
    static void NAME(const PARAMS& p)
// Kernels of emulator/planted, which are not in list.h. INFONCE_PLANTED_CLUSTER: in clusters, with a prologue.
#define INFONCE_PLANTED(NAME, PARAMS, THREADS) INFONCE_REGISTERED(NAME, PARAMS, THREADS, 1, wait_for_launches_before())
#define INFONCE_PLANTED_CLUSTER(NAME, PARAMS, THREADS, CLUSTER) INFONCE_REGISTERED(NAME, PARAMS, THREADS, CLUSTER, )
#endif

// The kernel NAME of list.h. Its body sees the parameters as `p`, and begins after wait_for_launches_before.
#define INFONCE_KERNEL(NAME, PARAMS)                                                \
    static_assert(list::NAME::CLUSTER == 1, "a kernel in clusters has a prologue"); \
    INFONCE_ENTRY(NAME, PARAMS, , wait_for_launches_before())
// A kernel with a prologue, code that needs no global memory: its body itself calls wait_for_launches_before.
#define INFONCE_PROLOGUE_KERNEL(NAME, PARAMS)                              \
    static_assert(list::NAME::CLUSTER == 1, "a kernel in clusters is an INFONCE_CLUSTER_KERNEL"); \
    INFONCE_ENTRY(NAME, PARAMS, , )
// A kernel with a prologue, in clusters of CLUSTER blocks with consecutive x (ptx/cluster.h), from sm_90 on. The grid's
// x is a multiple of CLUSTER. 8 is the largest portable size (PTX ISA, "Cluster Dimension Directives").
#define INFONCE_CLUSTER_KERNEL(NAME, PARAMS)                                                           \
    static_assert(list::NAME::CLUSTER > 1 && list::NAME::CLUSTER <= 8, "a cluster has 2 to 8 blocks"); \
    INFONCE_ENTRY(NAME, PARAMS, INFONCE_CLUSTER(NAME), )

namespace infonce {

// Launches of a stream overlap where the attribute allows it (src/cuda/launch.rs): blocks become resident while the
// launch before still runs. Only the sm_90a image has the instructions; elsewhere these functions are empty. PTX ISA,
// "griddepcontrol"; CUDA C++ Programming Guide, "Programmatic Dependent Launch".
#ifdef __CUDACC__
// Waits until the launch before has ended and its writes are visible. Every thread of every kernel waits, on every
// path, before it accesses global memory. So a launch ends only after the one before it, and after this wait all
// earlier launches have ended.
INFONCE_DEVICE void wait_for_launches_before() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Every kernel starts with this. When all blocks of a launch have executed it, or ended, blocks of the next launch may
// start where there is space. Their wait_for_launches_before still waits for the end of this launch.
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
