// Global memory: allocations, and a flag for each byte of whether it has been written.
#include "emulator/memory.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <shared_mutex>

#include "emulator/emulator.h"

namespace infonce::emulator {
namespace {

constexpr uint64_t ALIGNMENT = 256;

std::shared_mutex mutex;
std::atomic<uint64_t> generation{0};

std::map<uintptr_t, Allocation>& allocations() {
    static std::map<uintptr_t, Allocation> all;
    return all;
}

}  // namespace

uint64_t allocation_generation() { return generation.load(std::memory_order_acquire); }

Allocation find_allocation(const void* address, uint64_t bytes) {
    std::shared_lock lock(mutex);
    auto& all = allocations();
    auto after = all.upper_bound(reinterpret_cast<uintptr_t>(address));
    if (after == all.begin()) return {};
    const Allocation& found = std::prev(after)->second;
    return found.holds(address, bytes) ? found : Allocation{};
}

}  // namespace infonce::emulator

using namespace infonce::emulator;

void* infonce_emulator_allocate(uint64_t bytes) {
    Allocation made;
    made.bytes = bytes;
    // Unwritten elements are NaN in every type.
    const uint64_t rounded = (bytes + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
    made.data = static_cast<char*>(std::aligned_alloc(ALIGNMENT, rounded));
    made.written = static_cast<uint8_t*>(std::calloc(bytes + 1, 1));
    if (!made.data || !made.written) {
        std::free(made.data);
        std::free(made.written);
        return nullptr;
    }
    std::memset(made.data, 0xff, rounded);
    std::unique_lock lock(mutex);
    try {
        allocations().emplace(reinterpret_cast<uintptr_t>(made.data), made);
    } catch (const std::bad_alloc&) {
        std::free(made.data);
        std::free(made.written);
        return nullptr;
    }
    return made.data;
}

void infonce_emulator_free(void* memory) {
    std::unique_lock lock(mutex);
    auto& all = allocations();
    auto found = all.find(reinterpret_cast<uintptr_t>(memory));
    if (found == all.end()) return;
    std::free(found->second.data);
    std::free(found->second.written);
    all.erase(found);
    generation.fetch_add(1, std::memory_order_release);
}

int infonce_emulator_write(void* to, const void* from, uint64_t bytes) {
    const Allocation found = find_allocation(to, bytes);
    if (!found.data) return 1;
    std::memcpy(to, from, bytes);
    std::memset(found.written + (static_cast<char*>(to) - found.data), 1, bytes);
    return 0;
}

int infonce_emulator_read(const void* from, void* to, uint64_t bytes) {
    if (!find_allocation(from, bytes).data) return 1;
    std::memcpy(to, from, bytes);
    return 0;
}
