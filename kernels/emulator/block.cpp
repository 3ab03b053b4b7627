// One block: the order in which its threads run, its barriers, reports, and the primitives that kernels/ptx calls.
#include "emulator/block.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "emulator/cluster.h"

namespace infonce::emulator {

__thread Current current;
__thread Block* running;

const char* name_of(Operation operation) {
    switch (operation) {
        case Operation::BLOCK_BARRIER: return "block_barrier";
        case Operation::NAMED_BARRIER: return "named_barrier";
        case Operation::CLUSTER_BARRIER: return "cluster_barrier";
        case Operation::MBARRIER: return "mbarrier_wait";
        case Operation::WARPGROUP: return "wgmma_wait";
        case Operation::WARP_BARRIER: return "warp_barrier";
        case Operation::SHUFFLE: return "shuffle";
        case Operation::LOAD_MATRICES: return "load_matrices";
        case Operation::STORE_MATRICES: return "store_matrices";
        case Operation::MMA: return "mma";
        case Operation::NONE: break;
    }
    return "nothing";
}

Block::Block(Cluster& of) : cluster(of), clocks(of.clocks) {
    arena = static_cast<char*>(std::aligned_alloc(1024, MOST_SHARED + 1024));
    if (!arena) throw std::bad_alloc();
}

Block::~Block() { std::free(arena); }

uint64_t Block::random() {
    // splitmix64
    uint64_t x = state += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

bool Block::prepare_threads(const InfonceEmulatorLaunch& what, void (*kernel)(const void*), const uint32_t (&at)[3], uint64_t seed) {
    launch = &what;
    body = kernel;
    state = seed;
    std::copy(at, at + 3, index);
    thread_count = living = what.threads;
    at_barrier = 0;
    shadow.reset(what.shared_bytes / 4, epoch);
    epoch = 1;
    threads.resize(std::max<size_t>(threads.size(), thread_count));
    warps.assign((thread_count + WARP - 1) / WARP, Warp{});
    warpgroups.assign((thread_count + WARPGROUP - 1) / WARPGROUP, Warpgroup{});
    std::fill(std::begin(named), std::end(named), NamedBarrier{});
    std::fill_n(has_waited, thread_count, false);
    ready_first = ready_count = 0;
    barriers.clear();
    bulk_copies.clear();
    left_stores.clear();
    std::memset(arena, 0xff, what.shared_bytes);
    std::vector<uint32_t> order(thread_count);
    for (uint32_t i = 0; i < thread_count; ++i) order[i] = i;
    for (uint32_t i = thread_count; i > 1; --i) std::swap(order[i - 1], order[random() % i]);
    for (uint32_t i = 0; i < thread_count; ++i) {
        threads[i] = Thread{};
        char* end = stacks.end(i);
        if (!end) return false;
        prepare(fibers[i], end, &Block::enter);
    }
    for (uint32_t thread : order) make_ready(thread);
    return true;
}

void Block::become_current() {
    running = this;
    std::copy(index, index + 3, current.block);
    current.rank = rank;
}

void Block::enter() {
    Block& block = *running;
    block.body(block.launch->params);
    Thread& thread = block.threads[current.thread];
    if (!block.has_waited[current.thread]) block.fail("the thread ends with no wait_for_launches_before", thread.site);
    const BoxStore* store = thread.stores.left();
    if (thread.copies.left()) block.fail("the thread ends with copies that it has not waited for", thread.site);
    if (!thread.copies.open.empty()) block.fail("the thread ends with copies that it has not committed", thread.site);
    if (!thread.stores.open.empty()) block.fail("the thread ends with stores that it has not committed", thread.stores.open[0].site);
    if (store) block.fail("the thread ends while a store may still read its source", store->site);
    if (!thread.products.closed.empty() || !thread.products.open.empty())
        block.fail("the thread ends with products that it has not waited for", thread.site);
    if (block.living == 1) {
        for (const NamedBarrier& barrier : block.named)
            if (barrier.arrived > 0)
                block.fail("the block ends with " + std::to_string(barrier.arrived) + " of " + std::to_string(barrier.threads) +
                               " arrivals at a named barrier",
                           barrier.site);
    }
    thread.ended = true;
    --block.living;
    block.ended_in_cluster();
    block.next();
    __builtin_unreachable();
}

// Continues with the next ready thread, until this one is ready again. It is not inlined: all fibers then continue at
// the same address, which the CPU predicts.
__attribute__((noinline)) void Block::next() {
    const uint32_t own = current.thread;
    if (together) return cluster.next();
    if (ready_count == 0 && !complete_late_copies()) return switch_to(fibers[own], cluster.scheduler);
    const uint32_t other = take_ready();
    // The stacks of a block exceed the L1 cache: prefetches the thread after the next.
    const char* after = static_cast<const char*>(fibers[ready[ready_first]].stack_pointer);
    __builtin_prefetch(after);
    __builtin_prefetch(after + 64);
    __builtin_prefetch(after + 128);
    current.thread = other;
    if (other != own) switch_to(fibers[own], fibers[other]);
}

void Block::fail(const std::string& what, Site site) {
    cluster.give_up("thread " + std::to_string(current.thread) + ", " + (site.file ? place(site) : "at its end") + ": " + what);
}

std::string Block::deadlock() const {
    std::string text = "deadlock:";
    uint32_t shown = 0;
    for (uint32_t i = 0; i < thread_count && shown < 8; ++i) {
        const Thread& thread = threads[i];
        if (thread.ended) continue;
        // Neighbouring threads that wait for the same thing are reported once.
        const bool as_before = i > 0 && !threads[i - 1].ended && threads[i - 1].waits_for == thread.waits_for &&
                               threads[i - 1].site == thread.site &&
                               (thread.waits_for != Operation::MBARRIER || threads[i - 1].barrier == thread.barrier);
        if (as_before) continue;
        ++shown;
        text += " thread " + std::to_string(i) + " and following wait in " + name_of(thread.waits_for) + " at " + place(thread.site);
        if (thread.waits_for == Operation::MBARRIER)
            text += " for parity " + std::to_string(thread.parity) + " of " + barriers[thread.barrier].progress();
        text += ";";
    }
    return text + " " + std::to_string(thread_count - living) + " threads have ended";
}

void Block::block_barrier(Site site) {
    Thread& thread = threads[current.thread];
    thread.waits_for = Operation::BLOCK_BARRIER;
    thread.site = site;
    if (++at_barrier < thread_count) return next();
    at_barrier = 0;
    ++epoch;
    if (clocks.on()) clocks.join(clock_of(0), uint32_t(warps.size()));
    for (uint32_t i = 0; i < thread_count; ++i)
        if (i != current.thread) make_ready(i);
}

// What warps have done before they arrive is known to those that wait.
void Block::named_barrier(uint32_t number, uint32_t count, bool waits, Site site) {
    if (number == 0 || number >= NAMED_BARRIERS) fail("a named barrier " + std::to_string(number) + "; there are 1 to 15", site);
    if (count == 0 || count % WARP != 0 || count > thread_count)
        fail("a named barrier for " + std::to_string(count) + " threads; it takes whole warps of the block", site);
    start_clocks();
    NamedBarrier& barrier = named[number];
    if (barrier.arrived == 0) {
        barrier.threads = count;
        barrier.site = site;
        barrier.released = clocks.empty();
    } else if (barrier.threads != count) {
        fail("named barrier " + std::to_string(number) + " for " + std::to_string(count) + " threads, where others said " +
                 std::to_string(barrier.threads),
             site);
    }
    Thread& thread = threads[current.thread];
    thread.site = site;
    const uint32_t warp = current.thread / WARP;
    clocks.release(clock_of(current.thread), barrier.released);
    if (++barrier.arrivals[warp] > WARP)
        fail("warp " + std::to_string(warp) + " arrives twice in the same phase of named barrier " + std::to_string(number), site);
    ++barrier.arrived;
    if (barrier.arrived < barrier.threads) {
        if (!waits) return;
        thread.waits_for = Operation::NAMED_BARRIER;
        thread.barrier = number;
        barrier.waiting.push_back(current.thread);
        return next();
    }
    if (waits) barrier.waiting.push_back(current.thread);
    for (uint32_t other = 0; other < warps.size(); ++other) warps[other].epoch += barrier.arrivals[other] > 0;
    for (uint32_t other : barrier.waiting) {
        clocks.acquire(clock_of(other), barrier.released);
        threads[other].waits_for = Operation::NONE;
        if (other != current.thread) make_ready(other);
    }
    barrier = NamedBarrier{};
}

// ---- Primitives

void wait_for_launches_before() { running->wait_for_launches_before(); }
uint32_t shared_base() { return SHARED_BASE; }
void load_shared(uint32_t address, void* value, uint32_t bytes, Site site) { running->load_shared(address, value, bytes, site); }
void store_shared(uint32_t address, const void* value, uint32_t bytes, Site site) { running->store_shared(address, value, bytes, site); }
void load_global(const void* address, void* value, uint32_t bytes, Site site) { running->load_global(address, value, bytes, site); }
void store_global(void* address, const void* value, uint32_t bytes, Site site) { running->store_global(address, value, bytes, site); }
void block_barrier(Site site) { running->block_barrier(site); }
void warp_barrier(Site site) { running->warp_collective(Operation::WARP_BARRIER, {}, site); }
void copy_async_16(uint32_t to, const void* source, bool valid, Site site) { running->copy_async_16(to, source, valid, site); }
void commit_copies(Site) { running->commit_copies(); }
void wait_copies(int pending, Site) { running->wait_copies(pending); }
void mbarrier_init(uint32_t barrier, uint32_t count, Site site) { running->initialise_barrier(barrier, count, site); }
void fence_mbarrier_init(Site) { running->fence_barriers(); }
void mbarrier_arrive(uint32_t barrier, uint32_t expected_bytes, Site site) { running->arrive(barrier, expected_bytes, site); }
void mbarrier_wait(uint32_t barrier, uint32_t parity, Site site) { running->wait_barrier(barrier, parity, site); }
void named_barrier(uint32_t number, uint32_t count, bool waits, Site site) { running->named_barrier(number, count, waits, site); }

namespace {

Box box_of(const uint64_t (&words)[16], uint32_t column, uint32_t row, Site site) {
    TensorMapWords map;
    std::memcpy(&map, words, sizeof map);
    if (map.mark != TENSOR_MAP) running->fail("a tensor map that the emulator has not made", site);
    return {map.data, map.stride, map.rows, map.row_bytes, row, column * map.element_bytes, map.box_rows};
}

}  // namespace

void copy_box(uint32_t to, const uint64_t (&map)[16], uint32_t column, uint32_t row, uint32_t barrier, Site site) {
    running->copy_box(to, box_of(map, column, row, site), barrier, site);
}
void multicast_box(uint32_t to, const uint64_t (&map)[16], uint32_t column, uint32_t row, uint32_t barrier, uint16_t blocks, Site site) {
    running->multicast_box(to, box_of(map, column, row, site), barrier, blocks, site);
}
void cluster_barrier(Site site) { running->cluster_barrier(site); }
uint32_t cluster_address(uint32_t address, uint32_t rank, Site site) { return running->cluster_address(address, rank, site); }
void mbarrier_arrive_remote(uint32_t barrier, Site site) { running->arrive_remote(barrier, site); }
void fence_async_proxy(Site) { running->fence_async_proxy(); }
void store_box(const uint64_t (&map)[16], uint32_t column, uint32_t row, uint32_t from, Site site) {
    running->store_box(box_of(map, column, row, site), from, site);
}
void commit_stores(Site) { running->commit_stores(); }
void wait_stores_read(int pending, Site) { running->wait_stores_read(pending); }
void wgmma_fence(Site site) { running->fence_products(site); }
void wgmma(const Product& product) { running->issue(product); }
void wgmma_commit(Site site) { running->commit_products(site); }
void wgmma_wait(int pending, Site site) { running->wait_products(pending, site); }

uint32_t shuffle(uint32_t value, int from, Site site) {
    uint32_t result = 0;
    running->warp_collective(Operation::SHUFFLE, {value, from, &result}, site);
    return result;
}
void load_matrices(uint32_t (&r)[4], uint32_t row, bool transposed, Site site) {
    running->warp_collective(Operation::LOAD_MATRICES, {row, transposed, r}, site);
}
void store_matrices(uint32_t row, const uint32_t (&r)[4], Site site) {
    running->warp_collective(Operation::STORE_MATRICES, {row, 0, nullptr, r}, site);
}
void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], ElementType type, Site site) {
    running->warp_collective(Operation::MMA, {0, int(type), nullptr, a, b, d}, site);
}

}  // namespace infonce::emulator
