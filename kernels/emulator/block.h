// One block of the emulator: its fibers, shared memory, collectives and copies.
//   block.cpp       the order in which threads run, and reports
//   access.cpp      accesses to memory, cp.async
//   collective.cpp  collectives of a warp
//   warpgroup.cpp   asynchronous products of a warpgroup
//   mbarrier.cpp    mbarriers and bulk copies
//   cluster.cpp     what blocks of a cluster do together
//   store.cpp       box stores
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "emulator/clocks.h"
#include "emulator/fiber.h"
#include "emulator/interface.h"
#include "emulator/mbarrier.h"
#include "emulator/memory.h"
#include "emulator/emulator.h"
#include "emulator/shadow.h"
#include "emulator/tensor_map.h"

namespace infonce::emulator {

constexpr uint32_t WARP = 32, WARPGROUP = 128, MOST_THREADS = 1024, NAMED_BARRIERS = 16, MOST_SHARED = 227 * 1024;

// The address of dynamic shared memory: not 0, so that an address that was never computed is out of bounds.
constexpr uint32_t SHARED_BASE = 1024;

// What a thread waits for. From WARP_BARRIER on these are collectives of a warp.
enum class Operation : uint8_t {
    NONE, BLOCK_BARRIER, NAMED_BARRIER, CLUSTER_BARRIER, MBARRIER, WARPGROUP, WARP_BARRIER, SHUFFLE, LOAD_MATRICES,
    STORE_MATRICES, MMA
};

const char* name_of(Operation operation);

// A lane's operands and results of a warp collective. They lie on the lane's stack until the collective is done.
struct LaneArguments {
    uint32_t value = 0;  // shuffled; or an address
    int selector = 0;    // lane that a shuffle takes from; transposed; element type
    uint32_t* result = nullptr;
    const uint32_t* a = nullptr;
    const uint32_t* b = nullptr;
    float* d = nullptr;
};

// Asynchronous operations of a thread in groups, as it commits and waits for them.
template <class Operation>
struct Groups {
    std::vector<Operation> open;
    std::vector<std::vector<Operation>> closed;  // not waited for, oldest first

    void commit() {
        closed.push_back(std::move(open));
        open.clear();
    }
    // Ends the operations of all closed groups but the newest `pending`.
    template <class End>
    void wait(int pending, const End& end) {
        for (; closed.size() > size_t(pending); closed.erase(closed.begin()))
            for (Operation& operation : closed.front()) end(operation);
    }
    // The oldest operation that is committed and not waited for; null: none.
    const Operation* left() const {
        for (const auto& group : closed)
            if (!group.empty()) return &group[0];
        return nullptr;
    }
};

class Cluster;

class Block {
  public:
    explicit Block(Cluster& cluster);
    ~Block();
    Block(const Block&) = delete;
    // Makes all threads of a block ready to start; false when memory is exhausted.
    bool prepare_threads(const InfonceEmulatorLaunch& launch, void (*body)(const void*), const uint32_t (&index)[3], uint64_t seed);

    // The primitives, called by the running fiber.
    void wait_for_launches_before() { has_waited[current.thread] = true; }
    void load_shared(uint32_t address, void* value, uint32_t bytes, Site site);
    void store_shared(uint32_t address, const void* value, uint32_t bytes, Site site);
    void load_global(const void* address, void* value, uint32_t bytes, Site site);
    void store_global(void* address, const void* value, uint32_t bytes, Site site);
    void block_barrier(Site site);
    void warp_collective(Operation operation, const LaneArguments& arguments, Site site);
    void copy_async_16(uint32_t to, const void* source, bool valid, Site site);
    void commit_copies() { threads[current.thread].copies.commit(); }
    void wait_copies(int pending);
    void initialise_barrier(uint32_t address, uint32_t count, Site site);
    void fence_barriers();
    void arrive(uint32_t address, uint32_t expected_bytes, Site site);
    void wait_barrier(uint32_t address, uint32_t parity, Site site);
    void copy_box(uint32_t to, const Box& box, uint32_t barrier, Site site);
    void multicast_box(uint32_t to, const Box& box, uint32_t barrier, uint32_t blocks, Site site);
    void cluster_barrier(Site site);
    uint32_t cluster_address(uint32_t address, uint32_t rank, Site site);
    void arrive_remote(uint32_t address, Site site);
    void fence_async_proxy();
    void store_box(const Box& box, uint32_t from, Site site);
    void commit_stores() { threads[current.thread].stores.commit(); }
    void wait_stores_read(int pending);
    void named_barrier(uint32_t number, uint32_t threads, bool waits, Site site);
    void fence_products(Site site);
    void issue(const Product& product);
    void commit_products(Site site);
    void wait_products(int pending, Site site);
    [[noreturn]] void fail(const std::string& what, Site site);

  private:
    friend class Cluster;
    struct Copy {
        uint32_t to;
        const char* source;  // null: zeros
        bool done;
    };
    struct BulkCopy {
        uint32_t to, bytes;
        Box box;
        uint32_t barrier;  // which of `barriers` counts it
        uint32_t thread;   // that issued it
        Site site;
        Block* issuer = nullptr;  // the block of that thread
    };
    // A box store: its bytes are in shared memory, then in `read`, then in the matrix.
    struct BoxStore {
        uint32_t from;
        Box box;
        std::vector<char> read;  // row after row, not swizzled; empty: not read yet
        bool written;
        Site site;
    };
    // When a warp checked the shared memory that its share of a product reads: which words, and their state.
    struct Checked {
        uint32_t first[2] = {}, end[2] = {};  // of a, of b
        uint64_t changes = 0;
        Moment moment{};
        uint32_t time = 0;  // of the warp
    };
    // A product, the registers of a at its issue, its accumulator, and what the first thread of a warp has checked.
    struct Queued {
        Product product;
        uint32_t a[4];
        uint32_t accumulator;
        Checked checked;
    };
    // An accumulator while products use it: its registers, and its values. `d` is null once the registers have the values.
    struct Accumulator {
        float* d;
        std::vector<float> values;
    };
    struct Warpgroup {
        uint32_t arrived = 0;  // threads that have come to the wait
        int pending = 0;
        Site site{};
    };
    struct NamedBarrier {
        uint32_t threads = 0, arrived = 0;
        Site site{};  // of the first arrival
        Clock released;
        std::vector<uint32_t> waiting;  // threads
        uint8_t arrivals[MOST_THREADS / WARP] = {};  // of each warp
    };
    struct Thread {
        Site site{};  // of its last collective, wait or copy
        Operation waits_for = Operation::NONE;
        bool ended = false;
        uint32_t barrier = 0, parity = 0;       // of the mbarrier it waits for
        Groups<Copy> copies;
        Groups<BoxStore> stores;
        Groups<Queued> products;
        bool fenced = false;  // for products
        std::vector<Accumulator> accumulators;
    };
    struct Warp {
        uint32_t epoch = 1;
        uint32_t arrived = 0;
        // The collective that `arrived` lanes have entered, as the first of them gave it.
        Operation operation = Operation::NONE;
        uint32_t first_arrived = 0;
        Site site{};
        const LaneArguments* lanes[WARP] = {};
    };

    static void enter();
    void next();
    void make_ready(uint32_t thread) { ready[(ready_first + ready_count++) % MOST_THREADS] = uint16_t(thread); }
    // Before all others: a warp's stacks stay in the L1 cache while it runs alone.
    void make_warp_ready(uint32_t warp, uint32_t but_lane) {
        for (uint32_t lane = WARP; lane-- > 0;)
            if (lane != but_lane) ready[ready_first = (ready_first + MOST_THREADS - 1) % MOST_THREADS] = uint16_t(warp * WARP + lane);
        ready_count += WARP - 1;
    }
    uint32_t take_ready() {
        const uint32_t thread = ready[ready_first];
        ready_first = (ready_first + 1) % MOST_THREADS;
        --ready_count;
        return thread;
    }
    Moment now() const { return {threads_before + current.thread, epoch, warps[current.thread / WARP].epoch}; }
    // The moment of the running thread, which may belong to another block of the cluster.
    Moment accessor() const;
    uint32_t accessing_warp() const { return accessor().thread / WARP; }
    uint32_t clock_of(uint32_t thread) const { return (threads_before + thread) / WARP; }
    std::string in_cluster() const;
    void become_current();
    void ended_in_cluster();
    void note_foreign(uint32_t entry, uint32_t time, Site site);
    std::string deadlock() const;
    uint64_t random();
    bool completes_at_once();

    void check_waited(Site site);
    void check_global(const void* address, uint32_t bytes, bool write, Site site);
    // The flags of whether these bytes of global memory have been written.
    uint8_t* flags_of(const void* address, uint32_t bytes, bool write, Site site);
    // Where a range of shared memory begins in `arena`, after checking the range.
    uint32_t offset_of(uint32_t address, uint32_t bytes, uint32_t alignment, Site site);
    void finish(const Copy& copy);

    [[noreturn]] void diverged(Operation operation, const Warp& warp, Site site);
    void execute(uint32_t warp);
    void load_matrices(const Warp& warp, uint32_t first_thread);
    void store_matrices(const Warp& warp, uint32_t first_thread);

    uint32_t warpgroup_of(Site site);
    Checked check_operands(const Product& product, uint32_t warp);
    bool has_changed(const Checked& checked, uint32_t warp) const;
    void execute_products(uint32_t group);
    void settle_accumulators(Thread& thread);

    uint32_t find_barrier(uint32_t address, Site site);
    uint32_t counting_barrier(uint32_t address, Site site);
    void start_clocks();
    void count_transactions(Mbarrier& barrier, int64_t bytes, Site site);
    void settle(Mbarrier& barrier);
    void begin(BulkCopy copy);
    void complete(const BulkCopy& copy);
    void write_box(const BulkCopy& copy);
    void read_source(BoxStore& store);
    void write(BoxStore& store);
    void write_left_stores();
    // Completes bulk copies until a thread is ready; false when none gets ready.
    bool complete_late_copies();
    // Mbarriers and bulk copies left over when all threads have ended; empty if none.
    std::string unfinished() const;

    Cluster& cluster;
    Clocks& clocks;  // of all blocks of the cluster
    bool together = false;  // whether the cluster has other blocks
    // Threads of a cluster are numbered through; `threads_before` of them belong to blocks before this one.
    uint32_t rank = 0, threads_before = 0, index[3] = {};
    // The last arrival or copy of another block into this block's shared memory, for each entry of the clocks: its time
    // (0: none) and its place.
    Clock foreign;
    std::vector<Site> foreign_sites;

    Stacks stacks;
    std::vector<Thread> threads;
    Fiber fibers[MOST_THREADS];  // of the threads
    std::vector<Warp> warps;
    std::vector<Warpgroup> warpgroups;
    NamedBarrier named[NAMED_BARRIERS];
    bool has_waited[MOST_THREADS] = {};  // for the launches before
    uint16_t ready[MOST_THREADS] = {};  // a ring of threads
    uint32_t ready_first = 0, ready_count = 0;
    uint32_t thread_count = 0, living = 0, at_barrier = 0, epoch = 1;
    const InfonceEmulatorLaunch* launch = nullptr;
    void (*body)(const void*) = nullptr;
    uint64_t state = 0;
    char* arena = nullptr;  // shared memory
    Shadow shadow;
    std::vector<Mbarrier> barriers;
    std::vector<BulkCopy> bulk_copies;  // in flight
    std::vector<BoxStore> left_stores;  // whose sources are read; written when the block ends
    // A cache of allocations, emptied when one has been freed.
    static constexpr uint32_t KNOWN = 8;
    Allocation known[KNOWN];
    uint32_t known_next = 0;
    uint64_t known_generation = 0;
};

// The block whose fiber runs on this OS thread.
extern __thread Block* running;

}  // namespace infonce::emulator
