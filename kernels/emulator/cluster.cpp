// Blocks that run together: which runs next, their barrier, and accesses to another block's shared memory.
#include "emulator/cluster.h"

#include <algorithm>

namespace infonce::emulator {
namespace {

std::string text_of(const uint32_t (&index)[3]) {
    return "block (" + std::to_string(index[0]) + ", " + std::to_string(index[1]) + ", " + std::to_string(index[2]) + "), ";
}

}  // namespace

Cluster& this_cluster() {
    static thread_local Cluster cluster;
    return cluster;
}

bool Cluster::run(const InfonceEmulatorLaunch& launch, void (*body)(const void*), uint32_t count, const uint32_t (&first)[3], uint64_t seed) {
    while (blocks.size() < count) blocks.push_back(std::make_unique<Block>(*this));
    size = count;
    fault_text.clear();
    waiting.clear();
    arrived = 0;
    clocks.stop();
    for (uint32_t rank = 0; rank < count; ++rank) {
        Block& block = *blocks[rank];
        block.rank = rank;
        block.threads_before = rank * launch.threads;
        block.together = count > 1;
        const uint32_t index[3] = {first[0] + rank, first[1], first[2]};
        if (!block.prepare_threads(launch, body, index, seed + rank)) {
            fault_text = text_of(index) + "no memory for the stacks of " + std::to_string(launch.threads) + " threads";
            return false;
        }
    }
    std::copy(launch.grid, launch.grid + 3, current.grid);
    current.threads = launch.threads;
    Block* start = blocks[0].get();
    if (count > 1) {
        const uint32_t warps = launch.threads / WARP;
        clocks.start(count * warps, count);
        for (uint32_t rank = 0; rank < count; ++rank) {
            Block& block = *blocks[rank];
            block.shadow.start_clocks(clocks, rank * warps, warps, rank * MOST_BARRIERS, {block.threads_before, 1, 1});
            block.foreign = clocks.empty();
            block.foreign_sites.assign(block.foreign.size(), Site{});
        }
        keeps_block = start->random() % 2 == 0;
        start = blocks[start->random() % count].get();
    }

    // Fibers switch to each other; the first comes back here when no other can run.
    start->become_current();
    current.thread = start->take_ready();
    switch_to(scheduler, start->fibers[current.thread]);
    running = nullptr;
    for (uint32_t rank = 0; rank < count; ++rank) blocks[rank]->write_left_stores();
    if (fault_text.empty()) fault_text = leftovers();
    return fault_text.empty();
}

std::string Cluster::leftovers() const {
    std::string text;
    for (uint32_t rank = 0; rank < size; ++rank) {
        const Block& block = *blocks[rank];
        const std::string left = block.living > 0 ? block.deadlock() : block.unfinished();
        if (!left.empty()) text += (text.empty() ? "" : "; ") + text_of(block.index) + left;
    }
    return text;
}

void Cluster::give_up(const std::string& what) {
    fault_text = text_of(current.block) + what;
    Fiber abandoned;
    switch_to(abandoned, scheduler);
    __builtin_unreachable();
}

// ---- Scheduling

void Cluster::next() {
    Fiber& from = running->fibers[current.thread];
    Block* to = choose();
    if (!to) return switch_to(from, scheduler);
    to->become_current();
    current.thread = to->take_ready();
    Fiber& fiber = to->fibers[current.thread];
    if (&fiber != &from) switch_to(from, fiber);
}

Block* Cluster::choose() {
    const Block* last = running;
    do {
        std::vector<Block*> able;
        for (uint32_t rank = 0; rank < size; ++rank) {
            Block& block = *blocks[rank];
            if (block.ready_count == 0) continue;
            if (keeps_block && &block == last) return &block;
            able.push_back(&block);
        }
        if (!able.empty()) return able[blocks[0]->random() % able.size()];
    } while (complete_late_copy());
    return nullptr;
}

// Completes one of the copies in flight to any of the blocks.
bool Cluster::complete_late_copy() {
    size_t count = 0;
    for (uint32_t rank = 0; rank < size; ++rank) count += blocks[rank]->bulk_copies.size();
    if (count == 0) return false;
    size_t chosen = blocks[0]->random() % count;
    uint32_t rank = 0;
    for (; chosen >= blocks[rank]->bulk_copies.size(); ++rank) chosen -= blocks[rank]->bulk_copies.size();
    Block& block = *blocks[rank];
    const Block::BulkCopy copy = block.bulk_copies[chosen];
    block.bulk_copies.erase(block.bulk_copies.begin() + ptrdiff_t(chosen));
    // A fault is reported for the issuing thread; next() sets the thread that continues.
    copy.issuer->become_current();
    current.thread = copy.thread;
    block.complete(copy);
    return true;
}

// ---- The barrier, and the end

// All threads wait, the last to arrive included; the end of the phase makes them ready.
void Block::cluster_barrier(Site site) {
    start_clocks();
    if (cluster.arrived++ == 0) cluster.released = clocks.empty();
    clocks.release(clock_of(current.thread), cluster.released);
    Thread& thread = threads[current.thread];
    thread.waits_for = Operation::CLUSTER_BARRIER;
    thread.site = site;
    cluster.waiting.emplace_back(this, current.thread);
    cluster.settle_barrier();
    next();
}

void Cluster::settle_barrier() {
    size_t living = 0;
    for (uint32_t rank = 0; rank < size; ++rank) living += blocks[rank]->living;
    if (arrived < living) return;
    arrived = 0;
    for (const auto& [block, index] : waiting) {
        Block::Thread& thread = block->threads[index];
        thread.waits_for = Operation::NONE;
        clocks.acquire(block->clock_of(index), released);
        block->make_ready(index);
    }
    waiting.clear();
}

// An ended thread counts as arrived. A block's shared memory ends with its last thread: accesses of other blocks must
// have come before.
__attribute__((noinline)) void Block::ended_in_cluster() {
    if (cluster.arrived > 0) cluster.settle_barrier();
    if (!together || living > 0) return;
    for (uint32_t entry = 0; entry < foreign.size(); ++entry) {
        bool known = foreign[entry] == 0;
        for (uint32_t warp = 0; warp < warps.size() && !known; ++warp) known = clocks.has_seen(clock_of(0) + warp, entry, foreign[entry]);
        if (known) continue;
        const bool arrival = entry < clocks.warp_count();
        fail(std::string("the block ends with no barrier of the cluster after ") +
                 (arrival ? "an arrival at its mbarrier by a thread" : "a copy into it by a thread") + " of another block at " +
                 place(foreign_sites[entry]),
             {});
    }
    const std::string left = unfinished();
    if (!left.empty()) fail(left, {});
}

// ---- In the shared memory of another block

Moment Block::accessor() const {
    return running == this ? now() : Moment::elsewhere(running->threads_before + current.thread);
}

std::string Block::in_cluster() const {
    return together ? " of block " + std::to_string(rank) + " of the cluster" : std::string();
}

void Block::note_foreign(uint32_t entry, uint32_t time, Site site) {
    foreign[entry] = time;
    foreign_sites[entry] = site;
}

uint32_t Block::cluster_address(uint32_t address, uint32_t of, Site site) {
    if (of >= cluster.size) fail("block " + std::to_string(of) + " of a cluster of " + std::to_string(cluster.size), site);
    offset_of(address, 1, 1, site);
    return (of + 1) * Cluster::WINDOW + address;
}

void Block::arrive_remote(uint32_t address, Site site) {
    const uint32_t window = address / Cluster::WINDOW;
    if (window == 0 || window > cluster.size) fail("an arrival at an address that is none of the cluster's (cluster_address)", site);
    Block& target = *cluster.blocks[window - 1];
    if (target.living == 0) fail("an arrival at an mbarrier" + target.in_cluster() + ", which has ended", site);
    target.arrive(address % Cluster::WINDOW, 0, site);
}

void Block::multicast_box(uint32_t to, const Box& box, uint32_t barrier, uint32_t mask, Site site) {
    if (mask == 0 || mask >> cluster.size != 0)
        fail("a copy to blocks of mask " + std::to_string(mask) + " in a cluster of " + std::to_string(cluster.size), site);
    for (uint32_t of = 0; of < cluster.size; ++of) {
        if ((mask >> of & 1) == 0) continue;
        Block& target = *cluster.blocks[of];
        if (target.living == 0) fail("a copy into shared memory" + target.in_cluster() + ", which has ended", site);
        target.copy_box(to, box, barrier, site);
    }
}

}  // namespace infonce::emulator
