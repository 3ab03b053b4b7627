// The emulator bodies of kernels/ptx call these functions, one a primitive. A call carries its place in the source,
// which a fault reports.
#pragma once

#include <cstddef>
#include <cstdint>

namespace infonce::emulator {

struct Site {
    const char* file;
    int line;

    // The place of the call whose default argument this is. If the built-ins stood between the braces of a temporary,
    // GCC would take the place of the parameter.
    static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

// The last parameter of a primitive: where it is called.
#define INFONCE_SITE ::infonce::emulator::Site site = ::infonce::emulator::Site::here()

// The running thread of the running block.
struct Current {
    uint32_t thread, threads;
    uint32_t block[3], grid[3];
    uint32_t rank;  // of the block in its cluster
};
// `__thread`, not `thread_local`: nothing to initialise, so no call at every use.
extern __thread Current current;

// Registers a kernel under its name. Each thread calls `run`.
struct Registration {
    Registration(const char* name, uint32_t threads, size_t params_bytes, uint32_t cluster, void (*run)(const void* params));
};

enum class ElementType { BF16, F16, TF32, E4M3 };

// Bytes of an element in memory.
constexpr uint32_t bytes_of(ElementType type) {
    return type == ElementType::TF32 ? 4 : type == ElementType::E4M3 ? 1 : 2;
}

// One product of a warpgroup (ptx/wgmma.h), as a thread issues it.
struct Product {
    float* d;  // columns / 2 elements
    uint32_t columns;
    const uint32_t* a_registers;  // four; null: a is in shared memory
    uint64_t a, b;                // descriptors
    bool accumulate, a_across, b_across;
    ElementType type;
    Site site;
};

void wait_for_launches_before();
uint32_t shared_base();
void load_shared(uint32_t address, void* value, uint32_t bytes, Site site);
void store_shared(uint32_t address, const void* value, uint32_t bytes, Site site);
void load_global(const void* address, void* value, uint32_t bytes, Site site);
void store_global(void* address, const void* value, uint32_t bytes, Site site);
void block_barrier(Site site);
void warp_barrier(Site site);
void named_barrier(uint32_t number, uint32_t threads, bool waits, Site site);
// The value of lane `from` of the warp.
uint32_t shuffle(uint32_t value, int from, Site site);
void copy_async_16(uint32_t to, const void* source, bool valid, Site site);
void commit_copies(Site site);
void wait_copies(int pending, Site site);
void mbarrier_init(uint32_t barrier, uint32_t count, Site site);
void fence_mbarrier_init(Site site);
// `expected_bytes` join the transaction count before the arrival; 0 for a plain arrival.
void mbarrier_arrive(uint32_t barrier, uint32_t expected_bytes, Site site);
void mbarrier_wait(uint32_t barrier, uint32_t parity, Site site);
void copy_box(uint32_t to, const uint64_t (&map)[16], uint32_t column, uint32_t row, uint32_t barrier, Site site);
// Into the blocks of the cluster whose bits are set.
void multicast_box(uint32_t to, const uint64_t (&map)[16], uint32_t column, uint32_t row, uint32_t barrier, uint16_t blocks, Site site);
void cluster_barrier(Site site);
uint32_t cluster_address(uint32_t address, uint32_t rank, Site site);
void mbarrier_arrive_remote(uint32_t barrier, Site site);
void fence_async_proxy(Site site);
void store_box(const uint64_t (&map)[16], uint32_t column, uint32_t row, uint32_t from, Site site);
void commit_stores(Site site);
void wait_stores_read(int pending, Site site);
void load_matrices(uint32_t (&r)[4], uint32_t row, bool transposed, Site site);
void store_matrices(uint32_t row, const uint32_t (&r)[4], Site site);
void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], ElementType type, Site site);
void wgmma_fence(Site site);
void wgmma(const Product& product);
void wgmma_commit(Site site);
void wgmma_wait(int pending, Site site);

}  // namespace infonce::emulator
