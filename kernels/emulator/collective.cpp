// Collectives of a warp's 32 threads: the last to arrive executes for all.
#include <cstring>

#include "emulator/block.h"
#include "emulator/multiply.h"

namespace infonce::emulator {

void Block::warp_collective(Operation operation, const LaneArguments& arguments, Site site) {
    const uint32_t warp_index = current.thread / WARP, lane = current.thread % WARP;
    Warp& warp = warps[warp_index];
    if (warp.arrived == 0) {
        warp.operation = operation;
        warp.site = site;
        warp.first_arrived = current.thread;
    } else if (warp.operation != operation || !(warp.site == site)) {
        diverged(operation, warp, site);
    }
    Thread& thread = threads[current.thread];
    thread.waits_for = operation;
    thread.site = site;
    warp.lanes[lane] = &arguments;
    if (++warp.arrived < WARP) return next();
    warp.arrived = 0;
    execute(warp_index);
    make_warp_ready(warp_index, lane);
}

// Not inlined: its strings would enlarge the stack of every waiting thread.
__attribute__((noinline, cold)) void Block::diverged(Operation operation, const Warp& warp, Site site) {
    fail(std::string("divergent warp: this thread is in ") + name_of(operation) + ", thread " +
             std::to_string(warp.first_arrived) + " in " + name_of(warp.operation) + " at " + place(warp.site),
         site);
}

__attribute__((noinline)) void Block::execute(uint32_t warp_index) {
    Warp& warp = warps[warp_index];
    switch (warp.operation) {
        case Operation::WARP_BARRIER: ++warp.epoch; break;
        case Operation::SHUFFLE:
            for (const LaneArguments* lane : warp.lanes) *lane->result = warp.lanes[uint32_t(lane->selector) % WARP]->value;
            break;
        case Operation::LOAD_MATRICES: load_matrices(warp, warp_index * WARP); break;
        case Operation::STORE_MATRICES: store_matrices(warp, warp_index * WARP); break;
        case Operation::MMA: multiply(warp.lanes); break;
        default: break;
    }
}

void Block::load_matrices(const Warp& warp, uint32_t first_thread) {
    const bool transposed = warp.lanes[0]->selector != 0;
    uint16_t rows[WARP][8];
    for (const LaneArguments* lane : warp.lanes) {
        const uint32_t word = (lane->value - SHARED_BASE) / 4;
        shadow.prefetch(word);
        shadow.prefetch(word + 3);
    }
    for (uint32_t lane = 0; lane < WARP; ++lane) {
        const uint32_t offset = offset_of(warp.lanes[lane]->value, 16, 16, warp.site);
        // The lane that gave the address reads the row.
        const Moment moment{threads_before + first_thread + lane, epoch, warp.epoch};
        if (!shadow.read(offset / 4, 4, moment))
            fail("lane " + std::to_string(lane) + ": " + shadow.fault(), warp.site);
        std::memcpy(rows[lane], arena + offset, 16);
    }
    for (uint32_t lane = 0; lane < WARP; ++lane) {
        const uint32_t g = lane / 4, t = lane % 4;
        uint32_t* result = warp.lanes[lane]->result;
        for (uint32_t matrix = 0; matrix < 4; ++matrix) {
            const auto& m = &rows[8 * matrix];
            if (transposed)
                result[matrix] = uint32_t(m[2 * t][g]) | uint32_t(m[2 * t + 1][g]) << 16;
            else
                std::memcpy(&result[matrix], &m[g][2 * t], 4);
        }
    }
}

void Block::store_matrices(const Warp& warp, uint32_t first_thread) {
    uint16_t rows[WARP][8];
    for (uint32_t lane = 0; lane < WARP; ++lane)
        for (uint32_t matrix = 0; matrix < 4; ++matrix)
            std::memcpy(&rows[8 * matrix + lane / 4][lane % 4 * 2], &warp.lanes[lane]->a[matrix], 4);
    for (uint32_t lane = 0; lane < WARP; ++lane) {
        const uint32_t offset = offset_of(warp.lanes[lane]->value, 16, 16, warp.site);
        // The lane that gave the address writes the row.
        const Moment moment{threads_before + first_thread + lane, epoch, warp.epoch};
        if (!shadow.write(offset / 4, 4, moment, warp.site))
            fail("lane " + std::to_string(lane) + ": " + shadow.fault(), warp.site);
        std::memcpy(arena + offset, rows[lane], 16);
    }
}

}  // namespace infonce::emulator
