// Fibers: the switch in assembly, the first frame, and the stacks.
#include "emulator/fiber.h"

#include <cstdint>
#include <cstring>
#include <sys/mman.h>

namespace infonce::emulator {

#if defined(__x86_64__)

// Callee-saved registers of the System V ABI; the return address is where the fiber continues.
asm(R"(
.text
.globl infonce_switch
.hidden infonce_switch
.type infonce_switch, @function
infonce_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size infonce_switch, . - infonce_switch
)");

// Six registers and the address of the entry, below a return address that is never used: at entry the stack pointer is
// 8 past a multiple of 16, as after a call.
constexpr size_t FRAME_WORDS = 8, ENTRY_WORD = 6;

#elif defined(__aarch64__)

// Callee-saved registers of the AAPCS64.
asm(R"(
.text
.globl infonce_switch
.hidden infonce_switch
.type infonce_switch, %function
infonce_switch:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size infonce_switch, . - infonce_switch
)");

// The registers above; the entry is in the link register, x30.
constexpr size_t FRAME_WORDS = 20, ENTRY_WORD = 11;

#else
#error "fibers are written for x86-64 and AArch64"
#endif

void prepare(Fiber& fiber, char* stack_end, void (*entry)()) {
    auto* top = reinterpret_cast<uintptr_t*>(stack_end) - FRAME_WORDS;
    std::memset(top, 0, FRAME_WORDS * sizeof(uintptr_t));
    top[ENTRY_WORD] = reinterpret_cast<uintptr_t>(entry);
    fiber.stack_pointer = top;
}

Stacks::~Stacks() {
    for (char* stack : stacks)
        if (stack) munmap(stack, GUARD + BYTES);
}

char* Stacks::end(size_t index) {
    if (index >= MOST) return nullptr;
    char*& stack = stacks[index];
    if (!stack) {
        void* mapped = mmap(nullptr, GUARD + BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped == MAP_FAILED) return nullptr;
        if (mprotect(mapped, GUARD, PROT_NONE) != 0) {
            munmap(mapped, GUARD + BYTES);
            return nullptr;
        }
        stack = static_cast<char*>(mapped);
    }
    // Stacks are a multiple of the page size apart. Their ends are spread over the cache's sets; otherwise the frames
    // of all threads would contend for the same few.
    return stack + GUARD + BYTES - index * SPREAD % MOST_SPREAD;
}

}  // namespace infonce::emulator
