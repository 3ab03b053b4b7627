// The emulator's C interface: runs kernels on the CPU, block by block.
#pragma once

#include <cstdint>

extern "C" {

// When asynchronous operations complete. In every schedule a read of their target before the wait is a fault.
enum {
    INFONCE_LATE = 0,   // as late as a wait allows
    INFONCE_EARLY = 1,  // where they are issued
    INFONCE_MIXED = 2,  // each one or the other, by the seed
};

struct InfonceEmulatorLaunch {
    const char* kernel;
    uint32_t grid[3];
    uint32_t threads;
    uint32_t shared_bytes;
    uint32_t schedule;
    const void* params;
    uint64_t params_bytes;
    uint64_t seed;  // of the order of threads and blocks
};

// 0: done. 1: a fault in the kernel. 2: no such kernel, or not launched so. `report` says what.
int infonce_emulator_launch(const InfonceEmulatorLaunch* launch, char* report, uint64_t report_bytes);

// Threads of a block of `kernel` and bytes of its parameters; 0, or 2 when there is no such kernel.
int infonce_emulator_describe(const char* kernel, uint32_t* threads, uint64_t* params_bytes);

// Global memory: aligned to 256 bytes, unwritten. Null when memory is exhausted.
void* infonce_emulator_allocate(uint64_t bytes);
void infonce_emulator_free(void* memory);
// Copies to and from global memory; `write` marks the bytes as written. 0, or 1 when the range is not allocated.
int infonce_emulator_write(void* to, const void* from, uint64_t bytes);
int infonce_emulator_read(const void* from, void* to, uint64_t bytes);

}
