// How a kernel is declared, and where a thread finds itself. Compiled by nvcc this is device code;
// compiled by a C++ compiler it runs on the CPU, every thread a fiber (kernels/host).
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define INFONCE_DEVICE __device__ __forceinline__
// Before a loop whose arrays are to stay in registers.
#define INFONCE_UNROLL _Pragma("unroll")
// A kernel of blocks of THREADS threads, MIN_BLOCKS of which are to fit a multiprocessor. Its body
// sees the parameters as `p`.
#define INFONCE_KERNEL(NAME, PARAMS, THREADS, MIN_BLOCKS)                             \
    extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) NAME(const __grid_constant__ PARAMS p)
// The same in clusters of CLUSTER blocks, consecutive in x, which run at the same time (ptx/cluster.h). The
// grid's x is a multiple of CLUSTER; of sm_90 on. (PTX ISA, "Cluster Dimension Directives": .reqnctapercluster;
// 8 blocks are what every such device can run.)
#define INFONCE_CLUSTER_KERNEL(NAME, PARAMS, THREADS, MIN_BLOCKS, CLUSTER)                                    \
    static_assert(CLUSTER >= 1 && CLUSTER <= 8, "a cluster has 1 to 8 blocks");                               \
    extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, MIN_BLOCKS)         \
        NAME(const __grid_constant__ PARAMS p)
#else
#include "host/interface.h"
#define INFONCE_DEVICE inline
#define INFONCE_UNROLL
#define INFONCE_KERNEL(NAME, PARAMS, THREADS, MIN_BLOCKS) INFONCE_CLUSTER_KERNEL(NAME, PARAMS, THREADS, MIN_BLOCKS, 1)
#define INFONCE_CLUSTER_KERNEL(NAME, PARAMS, THREADS, MIN_BLOCKS, CLUSTER)                            \
    static_assert(CLUSTER >= 1 && CLUSTER <= 8, "a cluster has 1 to 8 blocks");                       \
    static void NAME(const PARAMS& p);                                                                \
    static const ::infonce::host::Registration registration_of_##NAME(                                \
        #NAME, THREADS, sizeof(PARAMS), CLUSTER,                                                      \
        [](const void* params) { NAME(*static_cast<const PARAMS*>(params)); });                       \
    static void NAME(const PARAMS& p)
#endif

namespace infonce {

struct Index {
    uint32_t x, y, z;
};

#ifdef __CUDACC__
INFONCE_DEVICE uint32_t thread_index() { return threadIdx.x; }
INFONCE_DEVICE uint32_t thread_count() { return blockDim.x; }
INFONCE_DEVICE Index block_index() { return {blockIdx.x, blockIdx.y, blockIdx.z}; }
INFONCE_DEVICE Index grid_size() { return {gridDim.x, gridDim.y, gridDim.z}; }
#else
inline uint32_t thread_index() { return host::current.thread; }
inline uint32_t thread_count() { return host::current.threads; }
inline Index block_index() { return {host::current.block[0], host::current.block[1], host::current.block[2]}; }
inline Index grid_size() { return {host::current.grid[0], host::current.grid[1], host::current.grid[2]}; }
#endif

}  // namespace infonce
