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
INFONCE_DEVICE float shuffle_xor(float x, int mask) { return bits_float(shuffle_xor(float_bits(x), mask)); }
#else
inline uint32_t shuffle_xor(uint32_t x, int mask, INFONCE_SITE) { return host::shuffle_xor(x, mask, site); }
inline float shuffle_xor(float x, int mask, INFONCE_SITE) {
    return bits_float(host::shuffle_xor(float_bits(x), mask, site));
}
#endif

}  // namespace infonce
