// Fibers: a stack each, switched by a few instructions. A fiber stays on its OS thread. None is unwound, so nothing on
// its stack may need a destructor.
#pragma once

#include <cstddef>

namespace infonce::emulator {

struct Fiber {
    void* stack_pointer = nullptr;
};

// Prepares `fiber` to run `entry` on a stack that ends at `stack_end`; `entry` never returns.
void prepare(Fiber& fiber, char* stack_end, void (*entry)());

// Saves the running fiber in `from` and continues with `to`.
extern "C" void infonce_switch(void** from, void* to);

inline void switch_to(Fiber& from, Fiber& to) { infonce_switch(&from.stack_pointer, to.stack_pointer); }

// Stacks of one OS thread, kept from launch to launch, each above a guard page.
class Stacks {
  public:
    ~Stacks();
    // The end of stack `index`; null when the system has no memory left.
    char* end(size_t index);

  private:
    static constexpr size_t BYTES = 128 * 1024, GUARD = 4096 * 4, MOST = 1024;
    // By how many bytes the ends of stacks are moved: an odd number of cache lines from one to the next.
    static constexpr size_t SPREAD = 17 * 64, MOST_SPREAD = 16 * 1024;
    char* stacks[MOST] = {};
};

}  // namespace infonce::emulator
