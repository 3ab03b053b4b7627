#include "host/multiply.h"

#include <cstring>

namespace infonce::host {
namespace {

// Four numbers; GCC and Clang compile operations on it to what the processor has.
typedef float Four __attribute__((vector_size(16)));

float as_float(uint32_t bits) {
    float number;
    std::memcpy(&number, &bits, 4);
    return number;
}

float wide_f16(uint32_t half) {
    // The exponent's bias grows by 112; as a product this holds for subnormal numbers too.
    const float size = as_float((half & 0x7fffu) << 13) * 0x1p112f;
    uint32_t bits;
    std::memcpy(&bits, &size, 4);
    bits |= (half & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
    return as_float(bits | (half & 0x8000u) << 16);
}

float wide_e4m3(uint32_t byte) {
    if ((byte & 0x7fu) == 0x7fu) return as_float(0x7fc00000u);
    // As above: the bias grows by 120.
    const float size = as_float((byte & 0x7fu) << 20) * 0x1p120f;
    return byte & 0x80u ? -size : size;
}

// The numbers of a register: one of tf32, two of 16 bits.
template <Numbers NUMBERS>
void unpack(uint32_t bits, float* to, size_t stride) {
    if constexpr (NUMBERS == Numbers::TF32) {
        to[0] = as_float(bits & 0xffffe000u);
    } else if constexpr (NUMBERS == Numbers::BF16) {
        to[0] = as_float(bits << 16);
        to[stride] = as_float(bits & 0xffff0000u);
    } else {
        to[0] = wide_f16(bits & 0xffffu);
        to[stride] = wide_f16(bits >> 16);
    }
}

template <Numbers NUMBERS>
void multiply(const LaneArguments* const (&lanes)[WARP]) {
    constexpr int HALF = NUMBERS == Numbers::TF32 ? 4 : 8, DEPTH = 2 * HALF;
    constexpr int EACH = NUMBERS == Numbers::TF32 ? 1 : 2;
    float a[16][DEPTH];
    alignas(16) float b[DEPTH][8], d[16][8];
    for (int lane = 0; lane < int(WARP); ++lane) {
        const LaneArguments& own = *lanes[lane];
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; ++i) unpack<NUMBERS>(own.a[i], &a[g + i % 2 * 8][EACH * t + i / 2 * HALF], 1);
        for (int i = 0; i < 2; ++i) unpack<NUMBERS>(own.b[i], &b[EACH * t + i * HALF][g], 8);
    }
    for (int row = 0; row < 16; row += 2) {
        Four sums[2][2] = {};
        for (int k = 0; k < DEPTH; ++k) {
            Four low, high;
            std::memcpy(&low, &b[k][0], sizeof low);
            std::memcpy(&high, &b[k][4], sizeof high);
            sums[0][0] += a[row][k] * low;
            sums[0][1] += a[row][k] * high;
            sums[1][0] += a[row + 1][k] * low;
            sums[1][1] += a[row + 1][k] * high;
        }
        std::memcpy(&d[row][0], sums, sizeof sums);
    }
    for (int lane = 0; lane < int(WARP); ++lane) {
        float* own = lanes[lane]->d;
        for (int i = 0; i < 4; ++i) own[i] += d[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
    }
}

}  // namespace

float widen(Numbers numbers, uint16_t bits) {
    if (numbers == Numbers::E4M3) return wide_e4m3(bits);
    return numbers == Numbers::F16 ? wide_f16(bits) : as_float(uint32_t(bits) << 16);
}

void multiply(const LaneArguments* const (&lanes)[WARP]) {
    switch (Numbers(lanes[0]->selector)) {
        case Numbers::BF16: return multiply<Numbers::BF16>(lanes);
        case Numbers::F16: return multiply<Numbers::F16>(lanes);
        case Numbers::TF32: return multiply<Numbers::TF32>(lanes);
        case Numbers::E4M3: return;  // ptx/mma.h has none
    }
}

}  // namespace infonce::host
