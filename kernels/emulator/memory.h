// Global memory: which ranges are allocated, and which of their bytes have been written.
#pragma once

#include <cstdint>

namespace infonce::emulator {

struct Allocation {
    char* data = nullptr;
    uint64_t bytes = 0;
    // For each byte of data: 1 where it has been written.
    uint8_t* written = nullptr;

    bool holds(const void* address, uint64_t count) const {
        const auto start = reinterpret_cast<uintptr_t>(data), at = reinterpret_cast<uintptr_t>(address);
        return at >= start && count <= bytes && at - start <= bytes - count;
    }
};

// The allocation that holds a range; data null when there is none.
Allocation find_allocation(const void* address, uint64_t bytes);

// Increases with every allocation that is freed: earlier look-ups are then stale.
uint64_t allocation_generation();

}  // namespace infonce::emulator
