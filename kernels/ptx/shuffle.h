// Exchange between the 32 threads of a warp, all of which take part.
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
// x, which all lanes have in common. ptxas takes the result of such a shuffle for uniform: what is made of it, such as
// descriptors of products, stays in uniform registers, and behind a branch on it no shuffle needs a second one for a
// warp whose lanes have parted.
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
#else
inline uint32_t shuffle_xor(uint32_t x, int mask, INFONCE_SITE) {
    return host::shuffle(x, int(thread_index() % 32) ^ mask, site);
}
inline float shuffle_xor(float x, int mask, INFONCE_SITE) { return bits_float(shuffle_xor(float_bits(x), mask, site)); }
inline uint32_t same_in_warp(uint32_t x, INFONCE_SITE) { return host::shuffle(x, 0, site); }
inline double shuffle_xor(double x, int mask, INFONCE_SITE) {
    uint32_t halves[2];
    std::memcpy(halves, &x, sizeof(x));
    for (uint32_t& half : halves) half = shuffle_xor(half, mask, site);
    std::memcpy(&x, halves, sizeof(x));
    return x;
}
#endif

}  // namespace infonce
