// mbarriers, and the box copies that they count.
#include "emulator/mbarrier.h"

#include <cstring>

#include "emulator/cluster.h"

namespace infonce::emulator {

std::string Mbarrier::progress() const {
    std::string text = "the mbarrier at byte " + std::to_string(offset) + ", phase " + std::to_string(phase) + ": " +
                       std::to_string(count - pending) + " of " + std::to_string(count) + " arrivals, " +
                       std::to_string(transactions) + " transaction bytes missing";
    if (last_arrival.file)
        text += ", the last arrival by thread " + std::to_string(last_thread) + last_block + " at " + place(last_arrival);
    return text;
}

void Block::initialise_barrier(uint32_t address, uint32_t count, Site site) {
    const uint32_t offset = offset_of(address, 8, 8, site);
    if (count == 0 || count > MOST_ARRIVALS)
        fail("an mbarrier for " + std::to_string(count) + " arrivals; 1 to " + std::to_string(MOST_ARRIVALS) + " are allowed", site);
    if (barriers.size() == MOST_BARRIERS)
        fail("the emulator has at most " + std::to_string(MOST_BARRIERS) + " mbarriers a block", site);
    start_clocks();
    if (!shadow.claim(offset / 4, 2, now(), site)) fail(shadow.fault(), site);
    Mbarrier made;
    made.offset = offset;
    made.count = made.pending = count;
    made.initialised = now();
    made.initialised_time = clocks.time(clock_of(current.thread));
    made.running = made.completed = clocks.empty();
    barriers.push_back(std::move(made));
}

void Block::start_clocks() {
    if (clocks.on()) return;
    clocks.start(uint32_t(warps.size()), 1);
    shadow.start_clocks(clocks, 0, uint32_t(warps.size()), 0, now());
}

void Block::fence_barriers() {
    for (Mbarrier& barrier : barriers)
        if (barrier.initialised.thread == now().thread) barrier.fenced = true;
    fence_async_proxy();
}

uint32_t Block::find_barrier(uint32_t address, Site site) {
    const uint32_t offset = offset_of(address, 8, 8, site);
    const Moment by = accessor();
    for (uint32_t i = 0; i < barriers.size(); ++i) {
        const Moment& initialised = barriers[i].initialised;
        if (barriers[i].offset != offset) continue;
        const bool known = (!by.is_elsewhere() && initialised.before(by)) ||
                           clocks.has_seen(by.thread / WARP, initialised.thread / WARP, barriers[i].initialised_time);
        if (!known)
            fail("the mbarrier at byte " + std::to_string(offset) + in_cluster() + " is used with no barrier" +
                     (by.is_elsewhere() ? " of the cluster" : "") + " after thread " +
                     std::to_string(initialised.thread - threads_before) + " initialised it",
                 site);
        return i;
    }
    fail("there is no initialised mbarrier at byte " + std::to_string(offset) + in_cluster(), site);
}

void Block::count_transactions(Mbarrier& barrier, int64_t bytes, Site site) {
    const int64_t sum = barrier.transactions + bytes;
    if (sum > MOST_TRANSACTIONS || sum < -MOST_TRANSACTIONS)
        fail("a transaction count of " + std::to_string(sum) + " bytes is beyond the " +
                 std::to_string(MOST_TRANSACTIONS) + " that an mbarrier holds; " + barrier.progress(),
             site);
    barrier.transactions = sum;
}

void Block::arrive(uint32_t address, uint32_t expected_bytes, Site site) {
    Mbarrier& barrier = barriers[find_barrier(address, site)];
    if (barrier.pending == 0)
        fail("more arrivals than the " + std::to_string(barrier.count) + " of the phase; " + barrier.progress(), site);
    count_transactions(barrier, expected_bytes, site);
    --barrier.pending;
    barrier.last_thread = current.thread;
    barrier.last_block = running == this ? std::string() : running->in_cluster();
    barrier.last_arrival = site;
    const uint32_t warp = accessing_warp();
    clocks.release(warp, barrier.running);
    if (running != this) note_foreign(warp, barrier.running[warp], site);
    settle(barrier);
}

// Starts the next phase if this one is complete, and wakes its waiters.
void Block::settle(Mbarrier& barrier) {
    if (barrier.pending > 0 || barrier.transactions != 0) return;
    barrier.pending = barrier.count;
    ++barrier.phase;
    barrier.completed.swap(barrier.running);
    barrier.running.assign(barrier.running.size(), 0);
    const uint32_t index = uint32_t(&barrier - barriers.data());
    for (uint32_t i = 0; i < thread_count; ++i) {
        Thread& thread = threads[i];
        if (thread.waits_for != Operation::MBARRIER || thread.barrier != index || !barrier.passed(thread.parity)) continue;
        thread.waits_for = Operation::NONE;
        clocks.acquire(clock_of(i), barrier.completed);
        make_ready(i);
    }
}

void Block::wait_barrier(uint32_t address, uint32_t parity, Site site) {
    const uint32_t index = find_barrier(address, site);
    if (parity > 1) fail("a parity of " + std::to_string(parity) + "; phases are even or odd", site);
    if (barriers[index].passed(parity)) {
        clocks.acquire(clock_of(current.thread), barriers[index].completed);
        return;
    }
    Thread& thread = threads[current.thread];
    thread.waits_for = Operation::MBARRIER;
    thread.barrier = index;
    thread.parity = parity;
    thread.site = site;
    next();
}

void Block::copy_box(uint32_t to, const Box& box, uint32_t address, Site site) {
    const uint32_t bytes = box.box_rows * BOX_ROW;
    check_waited(site);
    const uint32_t offset = offset_of(to, bytes, 1024, site);
    for (uint32_t row = 0; row < box.box_rows; ++row)
        if (const uint32_t inside = box.inside(row)) check_global(box.at(row), inside, false, site);
    begin({offset, bytes, box, counting_barrier(address, site), current.thread, site});
}

uint32_t Block::counting_barrier(uint32_t address, Site site) {
    const uint32_t barrier = find_barrier(address, site);
    if (!barriers[barrier].fenced)
        fail("the mbarrier at byte " + std::to_string(barriers[barrier].offset) +
                 " counts a bulk copy with no fence_mbarrier_init after its initialisation",
             site);
    return barrier;
}

void Block::begin(BulkCopy copy) {
    copy.issuer = running;
    if (!shadow.begin_copy(copy.to / 4, copy.bytes / 4, accessor(), copy.site))
        fail((running == this ? "" : "in the memory" + in_cluster() + ": ") + shadow.fault(), copy.site);
    if (completes_at_once()) return complete(copy);
    std::memset(arena + copy.to, 0xff, copy.bytes);
    bulk_copies.push_back(copy);
}

void Block::complete(const BulkCopy& copy) {
    write_box(copy);
    Mbarrier& barrier = barriers[copy.barrier];
    const uint32_t counted = rank * MOST_BARRIERS + copy.barrier, time = clocks.complete(counted, barrier.running);
    shadow.end_bulk_copy(copy.to / 4, copy.bytes / 4, copy.barrier, time);
    if (copy.issuer != this) note_foreign(clocks.copies_of(counted), time, copy.site);
    count_transactions(barrier, -int64_t(copy.bytes), copy.site);
    settle(barrier);
}

// Swizzled by bits of the address; what lies outside the matrix becomes zero.
void Block::write_box(const BulkCopy& copy) {
    std::memset(arena + copy.to, 0, copy.bytes);
    for (uint32_t row = 0; row < copy.box.box_rows; ++row) {
        const uint32_t inside = copy.box.inside(row), swizzle = (SHARED_BASE + copy.to + row * BOX_ROW) >> 7 & 7;
        for (uint32_t byte = 0; byte < inside; byte += 16)
            std::memcpy(arena + copy.to + row * BOX_ROW + ((byte / 16 ^ swizzle) * 16), copy.box.at(row) + byte, 16);
    }
}

__attribute__((noinline)) bool Block::complete_late_copies() {
    while (ready_count == 0 && living > 0 && cluster.complete_late_copy()) {
    }
    return ready_count > 0;
}

std::string Block::unfinished() const {
    if (!bulk_copies.empty()) {
        const BulkCopy& copy = bulk_copies.front();
        return "the block ends while a bulk copy to shared memory at byte " + std::to_string(copy.to) +
               ", issued by thread " + std::to_string(copy.thread) + " at " + place(copy.site) + ", is under way";
    }
    for (const Mbarrier& barrier : barriers)
        if (barrier.in_the_middle()) return "the block ends in the middle of a phase of " + barrier.progress();
    return {};
}

}  // namespace infonce::emulator
