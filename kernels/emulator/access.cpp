// Accesses to shared and global memory, each checked, and the copies between them (cp.async).
#include <algorithm>
#include <cstring>

#include "emulator/block.h"

namespace infonce::emulator {

uint32_t Block::offset_of(uint32_t address, uint32_t bytes, uint32_t alignment, Site site) {
    const uint32_t offset = address - SHARED_BASE;
    if (offset > launch->shared_bytes || bytes > launch->shared_bytes - offset)
        fail("shared address " + std::to_string(int64_t(address) - SHARED_BASE) + " + " + std::to_string(bytes) +
                 " lies outside the block's " + std::to_string(launch->shared_bytes) + " bytes",
             site);
    if (offset & (alignment - 1))
        fail("shared address " + std::to_string(offset) + " is not a multiple of " + std::to_string(alignment), site);
    return offset;
}

// The shadow (emulator/shadow.h) has one state a 32-bit word; a 2-byte access counts as one to the whole word.
void Block::load_shared(uint32_t address, void* value, uint32_t bytes, Site site) {
    const uint32_t offset = offset_of(address, bytes, bytes, site);
    if (!shadow.read(offset / 4, (bytes + 3) / 4, now())) fail(shadow.fault(), site);
    std::memcpy(value, arena + offset, bytes);
}

void Block::store_shared(uint32_t address, const void* value, uint32_t bytes, Site site) {
    const uint32_t offset = offset_of(address, bytes, bytes, site);
    if (!shadow.write(offset / 4, (bytes + 3) / 4, now(), site)) fail(shadow.fault(), site);
    std::memcpy(arena + offset, value, bytes);
}

uint8_t* Block::flags_of(const void* address, uint32_t bytes, bool write, Site site) {
    const uint64_t generation = allocation_generation();
    if (generation != known_generation) {
        std::fill(known, known + KNOWN, Allocation{});
        known_generation = generation;
    }
    const char* first = static_cast<const char*>(address);
    for (const Allocation& allocation : known)
        if (allocation.holds(address, bytes)) return allocation.written + (first - allocation.data);
    Allocation& entry = known[known_next++ % KNOWN];
    entry = find_allocation(address, bytes);
    if (!entry.data) {
        const Allocation near = find_allocation(first - 1, 1);
        fail(std::string(write ? "writes " : "reads ") + std::to_string(bytes) + " bytes of global memory that " +
                 (near.data ? "lie past the end of an allocation of " + std::to_string(near.bytes) + " bytes"
                            : "are not allocated"),
             site);
    }
    return entry.written + (first - entry.data);
}

// Refuses an access to global memory before wait_for_launches_before: earlier launches may still use that memory.
void Block::check_waited(Site site) {
    if (!running->has_waited[current.thread]) fail("global memory is accessed with no wait_for_launches_before", site);
}

void Block::check_global(const void* address, uint32_t bytes, bool write, Site site) {
    check_waited(site);
    const uint32_t alignment = std::min(bytes, 16u);
    if (reinterpret_cast<uintptr_t>(address) & (alignment - 1))
        fail("a global address is not a multiple of the " + std::to_string(alignment) + " bytes accessed", site);
    uint8_t* written = flags_of(address, bytes, write, site);
    if (write)
        std::memset(written, 1, bytes);
    else if (std::memchr(written, 0, bytes))
        fail("reads global memory that has never been written", site);
}

void Block::load_global(const void* address, void* value, uint32_t bytes, Site site) {
    check_global(address, bytes, false, site);
    std::memcpy(value, address, bytes);
}

void Block::store_global(void* address, const void* value, uint32_t bytes, Site site) {
    check_global(address, bytes, true, site);
    std::memcpy(address, value, bytes);
}

bool Block::completes_at_once() {
    return launch->schedule == INFONCE_EARLY || (launch->schedule == INFONCE_MIXED && random() % 2 == 0);
}

void Block::copy_async_16(uint32_t to, const void* source, bool valid, Site site) {
    const uint32_t offset = offset_of(to, 16, 16, site);
    if (valid) check_global(source, 16, false, site);
    if (!shadow.begin_copy(offset / 4, 4, now(), site)) fail(shadow.fault(), site);
    Copy copy{offset, valid ? static_cast<const char*>(source) : nullptr, completes_at_once()};
    if (copy.done)
        finish(copy);
    else
        std::memset(arena + offset, 0xff, 16);
    threads[current.thread].site = site;
    threads[current.thread].copies.open.push_back(copy);
}

void Block::finish(const Copy& copy) {
    if (copy.source)
        std::memcpy(arena + copy.to, copy.source, 16);
    else
        std::memset(arena + copy.to, 0, 16);
}

void Block::wait_copies(int pending) {
    threads[current.thread].copies.wait(pending, [&](const Copy& copy) {
        if (!copy.done) finish(copy);
        shadow.end_copy(copy.to / 4, 4, now());
    });
}

}  // namespace infonce::emulator
