// One block on one OS thread: its fibers, its shared memory, its collectives and its copies.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "host/fiber.h"
#include "host/interface.h"
#include "host/memory.h"
#include "host/runner.h"
#include "host/shadow.h"

namespace infonce::host {

constexpr uint32_t WARP = 32, MOST_THREADS = 1024, MOST_SHARED = 227 * 1024;

// What a thread waits for, or does with its warp.
enum class Operation : uint8_t { NONE, BLOCK_BARRIER, WARP_BARRIER, SHUFFLE, LOAD_MATRICES, MMA };

// What a lane brings to a collective of its warp, and takes from it.
struct LaneArguments {
    uint32_t value = 0;   // shuffled; or an address
    int selector = 0;     // mask of a shuffle; transposed; kind of numbers
    const uint32_t* a = nullptr;
    const uint32_t* b = nullptr;
    float* d = nullptr;
    uint32_t* result = nullptr;
};

class Block {
  public:
    Block();
    ~Block();
    // Runs one block; false when it faulted, and fault() says how.
    bool run(const InfonceHostLaunch& launch, void (*body)(const void*), const uint32_t (&index)[3], uint64_t seed);
    const std::string& fault() const { return fault_text; }

    // The primitives, called by the running fiber.
    void load_shared(uint32_t address, void* value, uint32_t bytes, Site site);
    void store_shared(uint32_t address, const void* value, uint32_t bytes, Site site);
    void load_global(const void* address, void* value, uint32_t bytes, Site site);
    void store_global(void* address, const void* value, uint32_t bytes, Site site);
    void block_barrier(Site site);
    void warp_collective(Operation operation, const LaneArguments& arguments, Site site);
    void copy_async_16(uint32_t to, const void* source, bool valid, Site site);
    void commit_copies();
    void wait_copies(int pending, Site site);
    [[noreturn]] void fail(const std::string& what, Site site);

  private:
    struct Copy {
        uint32_t to;
        const char* source;  // null: zeros
        bool done;
    };
    struct Thread {
        Fiber fiber;
        bool ended = false;
        Operation waits_for = Operation::NONE;
        Site site{};
        LaneArguments arguments;
        std::vector<std::vector<Copy>> groups;  // closed, oldest first
        std::vector<Copy> open;
    };
    struct Warp {
        uint32_t arrived = 0;
        uint32_t epoch = 1;
    };

    static void enter();
    void next();
    void make_ready(uint32_t thread);
    Moment now() const;
    void finish(const Copy& copy);
    void check_global(const void* address, uint32_t bytes, bool write, Site site);
    void check_shared(uint32_t address, uint32_t bytes, uint32_t alignment, Site site);
    void execute(uint32_t warp);
    void load_matrices(Thread* lanes, uint32_t first_thread);
    std::string deadlock() const;
    uint64_t random();

    Stacks stacks;
    Fiber scheduler;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::vector<uint32_t> ready;  // a ring of threads
    size_t ready_first = 0, ready_count = 0;
    uint32_t thread_count = 0, living = 0, at_barrier = 0, epoch = 1;
    const InfonceHostLaunch* launch = nullptr;
    void (*body)(const void*) = nullptr;
    std::string fault_text;
    bool faulted = false;
    uint64_t state = 0;
    Shadow shadow;
    Allocation last_allocation;
    uint64_t last_generation = 0;
    char* arena = nullptr;
};

// This OS thread's.
Block& this_block();

}  // namespace infonce::host
