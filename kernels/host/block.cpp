#include "host/block.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace infonce::host {

__thread Current current;

namespace {

// Where the dynamic shared memory starts: not at 0, so that an address that was never computed shows.
constexpr uint32_t SHARED_BASE = 1024;

__thread Block* running;

const char* name_of(Operation operation) {
    switch (operation) {
        case Operation::BLOCK_BARRIER: return "block_barrier";
        case Operation::WARP_BARRIER: return "warp_barrier";
        case Operation::SHUFFLE: return "shuffle";
        case Operation::LOAD_MATRICES: return "load_matrices";
        case Operation::MMA: return "mma";
        case Operation::NONE: break;
    }
    return "nothing";
}

std::string place(Site site) { return std::string(site.file) + ":" + std::to_string(site.line); }

}  // namespace

uint32_t shared_base() { return SHARED_BASE; }

Block& this_block() {
    static thread_local Block block;
    return block;
}

Block::Block() {
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

bool Block::run(const InfonceHostLaunch& what, void (*kernel)(const void*), const uint32_t (&index)[3], uint64_t seed) {
    launch = &what;
    body = kernel;
    state = seed;
    faulted = false;
    fault_text.clear();
    thread_count = living = what.threads;
    at_barrier = 0;
    epoch = 1;
    threads.resize(std::max<size_t>(threads.size(), thread_count));
    warps.assign((thread_count + WARP - 1) / WARP, Warp{});
    ready.assign(thread_count, 0);
    ready_first = ready_count = 0;
    shadow.reset(what.shared_bytes / 4);
    std::memset(arena, 0xff, what.shared_bytes);
    std::vector<uint32_t> order(thread_count);
    for (uint32_t i = 0; i < thread_count; ++i) order[i] = i;
    for (uint32_t i = thread_count; i > 1; --i) std::swap(order[i - 1], order[random() % i]);
    for (uint32_t i = 0; i < thread_count; ++i) {
        Thread& thread = threads[i];
        char* end = stacks.end(i);
        if (!end) {
            fault_text = "no memory for the stacks of " + std::to_string(thread_count) + " threads";
            return false;
        }
        thread.ended = false;
        thread.waits_for = Operation::NONE;
        thread.groups.clear();
        thread.open.clear();
        prepare(thread.fiber, end, &Block::enter);
    }
    for (uint32_t thread : order) make_ready(thread);
    std::copy(index, index + 3, current.block);
    std::copy(what.grid, what.grid + 3, current.grid);
    current.threads = thread_count;

    running = this;
    while (!faulted && ready_count > 0) {
        const uint32_t thread = ready[ready_first];
        ready_first = (ready_first + 1) % thread_count;
        --ready_count;
        current.thread = thread;
        switch_to(scheduler, threads[thread].fiber);
    }
    running = nullptr;
    if (!faulted && living > 0) {
        faulted = true;
        fault_text = deadlock();
    }
    return !faulted;
}

void Block::enter() {
    Block& block = *running;
    block.body(block.launch->params);
    Thread& thread = block.threads[current.thread];
    for (const auto& group : thread.groups)
        if (!group.empty()) block.fail("the thread ends with copies that it has not waited for", thread.site);
    if (!thread.open.empty()) block.fail("the thread ends with copies that it has not committed", thread.site);
    thread.ended = true;
    --block.living;
    block.next();
    __builtin_unreachable();
}

// Gives the processor back to the scheduler until the thread is ready again.
void Block::next() { switch_to(threads[current.thread].fiber, scheduler); }

void Block::make_ready(uint32_t thread) {
    ready[(ready_first + ready_count) % thread_count] = thread;
    ++ready_count;
}

Moment Block::now() const { return {current.thread, epoch, warps[current.thread / WARP].epoch}; }

void Block::fail(const std::string& what, Site site) {
    faulted = true;
    fault_text = "thread " + std::to_string(current.thread) + ", " + (site.file ? place(site) : "at its end") + ": " + what;
    next();
    __builtin_unreachable();
}

std::string Block::deadlock() const {
    std::string text = "deadlock:";
    uint32_t shown = 0;
    for (uint32_t i = 0; i < thread_count; ++i) {
        const Thread& thread = threads[i];
        if (thread.ended) continue;
        // One line a group of threads that wait for the same.
        const bool as_before = i > 0 && !threads[i - 1].ended && threads[i - 1].waits_for == thread.waits_for &&
                               threads[i - 1].site.line == thread.site.line && threads[i - 1].site.file == thread.site.file;
        if (as_before) continue;
        if (++shown > 8) return text + " …";
        text += " thread " + std::to_string(i) + " and following wait in " + name_of(thread.waits_for) + " at " +
                place(thread.site) + ";";
    }
    return text + " " + std::to_string(thread_count - living) + " threads have ended";
}

void Block::check_shared(uint32_t address, uint32_t bytes, uint32_t alignment, Site site) {
    const uint32_t offset = address - SHARED_BASE;
    if (offset > launch->shared_bytes || bytes > launch->shared_bytes - offset)
        fail("shared address " + std::to_string(int64_t(address) - SHARED_BASE) + " + " + std::to_string(bytes) +
                 " lies outside the block's " + std::to_string(launch->shared_bytes) + " bytes",
             site);
    if (offset % alignment != 0)
        fail("shared address " + std::to_string(offset) + " is not a multiple of " + std::to_string(alignment), site);
}

void Block::load_shared(uint32_t address, void* value, uint32_t bytes, Site site) {
    check_shared(address, bytes, bytes, site);
    const uint32_t offset = address - SHARED_BASE;
    const std::string wrong = shadow.read(offset / 4, bytes / 4, now(), site);
    if (!wrong.empty()) fail(wrong, site);
    std::memcpy(value, arena + offset, bytes);
}

void Block::store_shared(uint32_t address, const void* value, uint32_t bytes, Site site) {
    check_shared(address, bytes, bytes, site);
    const uint32_t offset = address - SHARED_BASE;
    const std::string wrong = shadow.write(offset / 4, bytes / 4, now(), site);
    if (!wrong.empty()) fail(wrong, site);
    std::memcpy(arena + offset, value, bytes);
}

void Block::check_global(const void* address, uint32_t bytes, bool write, Site site) {
    if (reinterpret_cast<uintptr_t>(address) % std::min(bytes, 16u) != 0)
        fail("a global address is not a multiple of the " + std::to_string(bytes) + " bytes accessed", site);
    if (last_generation != allocation_generation() || !last_allocation.holds(address, bytes)) {
        last_generation = allocation_generation();
        last_allocation = find_allocation(address, bytes);
        if (!last_allocation.data) {
            const Allocation near = find_allocation(static_cast<const char*>(address) - 1, 1);
            fail(std::string(write ? "writes " : "reads ") + std::to_string(bytes) + " bytes of global memory that " +
                     (near.data ? "lie past the end of an allocation of " + std::to_string(near.bytes) + " bytes"
                                : "are not allocated"),
                 site);
        }
    }
    uint8_t* written = last_allocation.written + (static_cast<const char*>(address) - last_allocation.data);
    if (write) {
        std::memset(written, 1, bytes);
    } else if (std::memchr(written, 0, bytes)) {
        fail("reads global memory that has never been written", site);
    }
}

void Block::load_global(const void* address, void* value, uint32_t bytes, Site site) {
    check_global(address, bytes, false, site);
    std::memcpy(value, address, bytes);
}

void Block::store_global(void* address, const void* value, uint32_t bytes, Site site) {
    check_global(address, bytes, true, site);
    std::memcpy(address, value, bytes);
}

void Block::block_barrier(Site site) {
    Thread& thread = threads[current.thread];
    thread.waits_for = Operation::BLOCK_BARRIER;
    thread.site = site;
    if (++at_barrier < thread_count) {
        next();
        return;
    }
    at_barrier = 0;
    ++epoch;
    for (uint32_t i = 0; i < thread_count; ++i) {
        threads[i].waits_for = Operation::NONE;
        if (i != current.thread) make_ready(i);
    }
}

void Block::copy_async_16(uint32_t to, const void* source, bool valid, Site site) {
    check_shared(to, 16, 16, site);
    if (valid) check_global(source, 16, false, site);
    const uint32_t offset = to - SHARED_BASE;
    const std::string wrong = shadow.begin_copy(offset / 4, 4, now(), site);
    if (!wrong.empty()) fail(wrong, site);
    Copy copy{offset, valid ? static_cast<const char*>(source) : nullptr, false};
    const bool early = launch->schedule == INFONCE_EARLY || (launch->schedule == INFONCE_MIXED && random() % 2 == 0);
    if (early) {
        finish(copy);
        copy.done = true;
    } else {
        std::memset(arena + offset, 0xff, 16);
    }
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

void Block::wait_copies(int pending, Site) {
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

void Block::warp_collective(Operation operation, const LaneArguments& arguments, Site site) {
    const uint32_t warp_index = current.thread / WARP, first = warp_index * WARP;
    Warp& warp = warps[warp_index];
    Thread& thread = threads[current.thread];
    thread.arguments = arguments;
    thread.site = site;
    for (uint32_t lane = 0; warp.arrived > 0 && lane < WARP; ++lane) {
        const Thread& other = threads[first + lane];
        if (first + lane == current.thread || other.ended || other.waits_for == Operation::NONE ||
            other.waits_for == Operation::BLOCK_BARRIER)
            continue;
        if (other.waits_for != operation || other.site.line != site.line || std::strcmp(other.site.file, site.file) != 0)
            fail(std::string("divergent warp: this thread is in ") + name_of(operation) + ", thread " +
                     std::to_string(first + lane) + " in " + name_of(other.waits_for) + " at " + place(other.site),
                 site);
        break;
    }
    thread.waits_for = operation;
    if (++warp.arrived < WARP) {
        next();
        return;
    }
    warp.arrived = 0;
    execute(warp_index);
    for (uint32_t lane = 0; lane < WARP; ++lane) {
        threads[first + lane].waits_for = Operation::NONE;
        if (first + lane != current.thread) make_ready(first + lane);
    }
}

namespace {

float wide(uint32_t half, Numbers numbers) {
    uint32_t bits;
    if (numbers == Numbers::BF16) {
        bits = half << 16;
    } else {
        const uint32_t sign = (half & 0x8000u) << 16, rest = half & 0x7fffu;
        if (rest < 0x400u) {
            const float size = float(rest) / 16777216.0f;
            return sign ? -size : size;
        }
        bits = sign | (rest >= 0x7c00u ? 0x7f800000u | (rest & 0x3ffu) << 13 : (rest << 13) + (112u << 23));
    }
    float number;
    std::memcpy(&number, &bits, 4);
    return number;
}

// The two, or one, numbers of a register.
void unpack(uint32_t bits, Numbers numbers, float& first, float& second) {
    if (numbers == Numbers::TF32) {
        bits &= 0xffffe000u;
        std::memcpy(&first, &bits, 4);
    } else {
        first = wide(bits & 0xffffu, numbers);
        second = wide(bits >> 16, numbers);
    }
}

// Of a warp's fragments, whose layouts ptx/mma.h states.
void multiply(const LaneArguments* const (&lanes)[WARP]) {
    const auto numbers = Numbers(lanes[0]->selector);
    const int half = numbers == Numbers::TF32 ? 4 : 8, depth = 2 * half;
    alignas(32) float a[16][16], b[16][8], d[16][8];
    for (int lane = 0; lane < int(WARP); ++lane) {
        const LaneArguments& own = *lanes[lane];
        const int g = lane / 4, t = lane % 4;
        const int k = numbers == Numbers::TF32 ? t : 2 * t;
        float first, second = 0.0f;
        for (int i = 0; i < 4; ++i) {
            unpack(own.a[i], numbers, first, second);
            float* to = &a[g + i % 2 * 8][k + i / 2 * half];
            to[0] = first;
            if (numbers != Numbers::TF32) to[1] = second;
        }
        for (int i = 0; i < 2; ++i) {
            unpack(own.b[i], numbers, first, second);
            b[k + i * half][g] = first;
            if (numbers != Numbers::TF32) b[k + i * half + 1][g] = second;
        }
        for (int i = 0; i < 4; ++i) d[g + i / 2 * 8][2 * t + i % 2] = own.d[i];
    }
    for (int row = 0; row < 16; ++row) {
        float sums[8] = {};
        for (int k = 0; k < depth; ++k)
            for (int column = 0; column < 8; ++column) sums[column] += a[row][k] * b[k][column];
        for (int column = 0; column < 8; ++column) d[row][column] += sums[column];
    }
    for (int lane = 0; lane < int(WARP); ++lane)
        for (int i = 0; i < 4; ++i) lanes[lane]->d[i] = d[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
}

}  // namespace

void Block::execute(uint32_t warp_index) {
    const uint32_t first = warp_index * WARP;
    Thread* lanes = &threads[first];
    switch (lanes[0].waits_for) {
        case Operation::WARP_BARRIER: ++warps[warp_index].epoch; break;
        case Operation::SHUFFLE:
            for (uint32_t lane = 0; lane < WARP; ++lane) {
                const uint32_t from = lane ^ uint32_t(lanes[lane].arguments.selector);
                *lanes[lane].arguments.result = lanes[from % WARP].arguments.value;
            }
            break;
        case Operation::LOAD_MATRICES: load_matrices(lanes, first); break;
        case Operation::MMA: {
            const LaneArguments* arguments[WARP];
            for (uint32_t lane = 0; lane < WARP; ++lane) arguments[lane] = &lanes[lane].arguments;
            multiply(arguments);
            break;
        }
        default: break;
    }
}

void Block::load_matrices(Thread* lanes, uint32_t first_thread) {
    const Site site = lanes[0].site;
    const bool transposed = lanes[0].arguments.selector != 0;
    uint16_t rows[WARP][8];
    for (uint32_t lane = 0; lane < WARP; ++lane) {
        const uint32_t address = lanes[lane].arguments.value;
        check_shared(address, 16, 16, site);
        // The lane that gave the address reads the row.
        const Moment moment{first_thread + lane, epoch, warps[first_thread / WARP].epoch};
        const std::string wrong = shadow.read((address - SHARED_BASE) / 4, 4, moment, site);
        if (!wrong.empty()) fail("lane " + std::to_string(lane) + ": " + wrong, site);
        std::memcpy(rows[lane], arena + (address - SHARED_BASE), 16);
    }
    for (uint32_t lane = 0; lane < WARP; ++lane) {
        const uint32_t g = lane / 4, t = lane % 4;
        for (uint32_t matrix = 0; matrix < 4; ++matrix) {
            const auto& m = &rows[8 * matrix];
            const uint32_t low = transposed ? m[2 * t][g] : m[g][2 * t];
            const uint32_t high = transposed ? m[2 * t + 1][g] : m[g][2 * t + 1];
            lanes[lane].arguments.result[matrix] = low | high << 16;
        }
    }
}

// ---- Primitives

void load_shared(uint32_t address, void* value, uint32_t bytes, Site site) { running->load_shared(address, value, bytes, site); }
void store_shared(uint32_t address, const void* value, uint32_t bytes, Site site) { running->store_shared(address, value, bytes, site); }
void load_global(const void* address, void* value, uint32_t bytes, Site site) { running->load_global(address, value, bytes, site); }
void store_global(void* address, const void* value, uint32_t bytes, Site site) { running->store_global(address, value, bytes, site); }
void block_barrier(Site site) { running->block_barrier(site); }
void warp_barrier(Site site) { running->warp_collective(Operation::WARP_BARRIER, {}, site); }
void copy_async_16(uint32_t to, const void* source, bool valid, Site site) { running->copy_async_16(to, source, valid, site); }
void commit_copies(Site) { running->commit_copies(); }
void wait_copies(int pending, Site site) { running->wait_copies(pending, site); }

uint32_t shuffle_xor(uint32_t value, int mask, Site site) {
    uint32_t result = 0;
    LaneArguments arguments;
    arguments.value = value;
    arguments.selector = mask;
    arguments.result = &result;
    running->warp_collective(Operation::SHUFFLE, arguments, site);
    return result;
}

void load_matrices(uint32_t (&r)[4], uint32_t row, bool transposed, Site site) {
    LaneArguments arguments;
    arguments.value = row;
    arguments.selector = transposed;
    arguments.result = r;
    running->warp_collective(Operation::LOAD_MATRICES, arguments, site);
}

void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Numbers numbers, Site site) {
    LaneArguments arguments;
    arguments.selector = int(numbers);
    arguments.a = a;
    arguments.b = b;
    arguments.d = d;
    running->warp_collective(Operation::MMA, arguments, site);
}

}  // namespace infonce::host
