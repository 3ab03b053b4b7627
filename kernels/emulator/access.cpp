// Accesses to shared and global memory, each checked, and the copies between them (cp.async).
#include <algorithm>
#include <cstring>

#include "emulator/block.h"

namespace infonce::emulator {

void Block::check_shared(uint32_t address, uint32_t bytes, uint32_t alignment, Site site) {
    const uint32_t offset = address - SHARED_BASE;
    if (offset > launch->shared_bytes || bytes > launch->shared_bytes - offset)
        fail("shared address " + std::to_string(int64_t(address) - SHARED_BASE) + " + " + std::to_string(bytes) +
                 " lies outside the block's " + std::to_string(launch->shared_bytes) + " bytes",
             site);
    if (offset & (alignment - 1))
        fail("shared address " + std::to_string(offset) + " is not a multiple of " + std::to_string(alignment), site);
}

// The shadow knows words: a 2-byte access counts as one to its word.
void Block::load_shared(uint32_t address, void* value, uint32_t bytes, Site site) {
    check_shared(address, bytes, bytes, site);
    const uint32_t offset = address - SHARED_BASE;
    if (!shadow.read(offset / 4, (bytes + 3) / 4, now())) fail(shadow.fault(), site);
    std::memcpy(value, arena + offset, bytes);
}

void Block::store_shared(uint32_t address, const void* value, uint32_t bytes, Site site) {
    check_shared(address, bytes, bytes, site);
    const uint32_t offset = address - SHARED_BASE;
    if (!shadow.write(offset / 4, (bytes + 3) / 4, now(), site)) fail(shadow.fault(), site);
    std::memcpy(arena + offset, value, bytes);
}

const Allocation& Block::allocation_of(const void* address, uint32_t bytes, bool write, Site site) {
    const uint64_t generation = allocation_generation();
    if (generation != known_generation) {
        std::fill(known, known + KNOWN, Allocation{});
        known_generation = generation;
    }
    for (const Allocation& allocation : known)
        if (allocation.holds(address, bytes)) return allocation;
    Allocation& entry = known[known_next++ % KNOWN];
    entry = find_allocation(address, bytes);
    if (!entry.data) {
        const Allocation near = find_allocation(static_cast<const char*>(address) - 1, 1);
        fail(std::string(write ? "writes " : "reads ") + std::to_string(bytes) + " bytes of global memory that " +
                 (near.data ? "lie past the end of an allocation of " + std::to_string(near.bytes) + " bytes"
                            : "are not allocated"),
             site);
    }
    return entry;
}

// Earlier launches may still write what the thread reads, and read what it writes.
void Block::check_waited(Site site) {
    if (!running->has_waited[current.thread]) fail("global memory is accessed with no wait_for_launches_before", site);
}

void Block::check_global(const void* address, uint32_t bytes, bool write, Site site) {
    check_waited(site);
    const uint32_t alignment = std::min(bytes, 16u);
    if (reinterpret_cast<uintptr_t>(address) & (alignment - 1))
        fail("a global address is not a multiple of the " + std::to_string(alignment) + " bytes accessed", site);
    const Allocation& allocation = allocation_of(address, bytes, write, site);
    uint8_t* written = allocation.written + (static_cast<const char*>(address) - allocation.data);
    if (write) {
        std::memset(written, 1, bytes);
        return;
    }
    bool all;
    if (bytes == 4) {
        uint32_t flags;
        std::memcpy(&flags, written, 4);
        all = flags == 0x01010101u;
    } else {
        all = std::memchr(written, 0, bytes) == nullptr;
    }
    if (!all) fail("reads global memory that has never been written", site);
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
    check_shared(to, 16, 16, site);
    if (valid) check_global(source, 16, false, site);
    const uint32_t offset = to - SHARED_BASE;
    if (!shadow.begin_copy(offset / 4, 4, now(), site)) fail(shadow.fault(), site);
    Copy copy{offset, valid ? static_cast<const char*>(source) : nullptr, completes_at_once()};
    if (copy.done)
        finish(copy);
    else
        std::memset(arena + offset, 0xff, 16);
    threads[current.thread].site = site;
    threads[current.thread].open.push_back(copy);
}

void Block::finish(const Copy& copy) {
    if (copy.source)
        std::memcpy(arena + copy.to, copy.source, 16);
    else
        std::memset(arena + copy.to, 0, 16);
}

void Block::commit_copies() {
    Thread& thread = threads[current.thread];
    thread.groups.push_back(std::move(thread.open));
    thread.open.clear();
}

void Block::wait_copies(int pending) {
    Thread& thread = threads[current.thread];
    if (thread.groups.size() <= size_t(pending)) return;
    const size_t over = thread.groups.size() - size_t(pending);
    for (size_t group = 0; group < over; ++group) {
        for (const Copy& copy : thread.groups[group]) {
            if (!copy.done) finish(copy);
            shadow.end_copy(copy.to / 4, 4, now());
        }
    }
    thread.groups.erase(thread.groups.begin(), thread.groups.begin() + ptrdiff_t(over));
}

}  // namespace infonce::emulator
