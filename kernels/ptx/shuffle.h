// Exchange and reductions among the 32 lanes of a warp (shfl, vote, redux). All lanes participate.
#pragma once

#include "ptx/kernel.h"
#include "ptx/math.h"

namespace infonce {

#ifdef __CUDACC__
INFONCE_DEVICE uint32_t shuffle_xor(uint32_t x, int mask) {
    uint32_t y;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=r"(y) : "r"(x), "r"(mask));
    return y;
}
// Returns x, which has to be the same in all lanes. ptxas treats the result of this shuffle as uniform: values computed
// from it, such as wgmma descriptors, stay in uniform registers, and after a branch on it ptxas emits no second copy of
// shuffles for diverged lanes.
INFONCE_DEVICE uint32_t same_in_warp(uint32_t x) {
    uint32_t y;
    asm volatile("shfl.sync.idx.b32 %0, %1, 0, 0x1f, 0xffffffff;" : "=r"(y) : "r"(x));
    return y;
}
INFONCE_DEVICE float shuffle_xor(float x, int mask) { return bits_float(shuffle_xor(float_bits(x), mask)); }
INFONCE_DEVICE double shuffle_xor(double x, int mask) {
    const uint32_t high = shuffle_xor(uint32_t(__double2hiint(x)), mask);
    return __hiloint2double(int(high), int(shuffle_xor(uint32_t(__double2loint(x)), mask)));
}
// Whether x holds in any lane.
INFONCE_DEVICE bool warp_any(bool x) {
    uint32_t y;
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.u32 p, %1, 0;\nvote.sync.any.pred p, p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}"
        : "=r"(y)
        : "r"(uint32_t(x)));
    return y != 0;
}
// The sum over all lanes, the same in every one.
INFONCE_DEVICE uint32_t warp_sum(uint32_t x) {
    uint32_t y;
    asm volatile("redux.sync.add.u32 %0, %1, 0xffffffff;" : "=r"(y) : "r"(x));
    return y;
}
INFONCE_DEVICE uint32_t warp_maximum(uint32_t x) {
    uint32_t y;
    asm volatile("redux.sync.max.u32 %0, %1, 0xffffffff;" : "=r"(y) : "r"(x));
    return y;
}
#else
inline uint32_t shuffle_xor(uint32_t x, int mask, INFONCE_SITE) {
    return emulator::shuffle(x, int(thread_index() % 32) ^ mask, site);
}
inline float shuffle_xor(float x, int mask, INFONCE_SITE) { return bits_float(shuffle_xor(float_bits(x), mask, site)); }
inline uint32_t same_in_warp(uint32_t x, INFONCE_SITE) { return emulator::shuffle(x, 0, site); }
inline double shuffle_xor(double x, int mask, INFONCE_SITE) {
    uint32_t halves[2];
    std::memcpy(halves, &x, sizeof(x));
    for (uint32_t& half : halves) half = shuffle_xor(half, mask, site);
    std::memcpy(&x, halves, sizeof(x));
    return x;
}
inline uint32_t warp_sum(uint32_t x, INFONCE_SITE) {
    for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask, site);
    return x;
}
inline uint32_t warp_maximum(uint32_t x, INFONCE_SITE) {
    for (int mask = 16; mask > 0; mask /= 2) {
        const uint32_t other = shuffle_xor(x, mask, site);
        x = other > x ? other : x;
    }
    return x;
}
inline bool warp_any(bool x, INFONCE_SITE) { return warp_maximum(x, site) != 0; }
#endif

}  // namespace infonce
