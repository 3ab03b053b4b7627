// Loads and stores of 2, 4, 8 or 16 bytes of dynamic shared memory, by 32-bit address. Its base is aligned to 1,024.
#pragma once

#include "ptx/kernel.h"
#include "ptx/types.h"

#ifdef __CUDACC__
extern __shared__ __align__(1024) uint8_t infonce_shared[];
#endif

namespace infonce {

using SharedAddress = uint32_t;

#ifdef __CUDACC__

INFONCE_DEVICE SharedAddress shared_base() { return uint32_t(__cvta_generic_to_shared(infonce_shared)); }

template <class T>
INFONCE_DEVICE T load_shared(SharedAddress address) {
    union {
        T value;
        uint16_t half;
        uint32_t word;
        uint64_t words;
        uint32_t vector[4];
    } u;
    static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16, "2, 4, 8 or 16 bytes");
    if constexpr (sizeof(T) == 2)
        asm volatile("ld.shared.u16 %0, [%1];" : "=h"(u.half) : "r"(address) : "memory");
    else if constexpr (sizeof(T) == 4)
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(u.word) : "r"(address) : "memory");
    else if constexpr (sizeof(T) == 8)
        asm volatile("ld.shared.u64 %0, [%1];" : "=l"(u.words) : "r"(address) : "memory");
    else
        asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(u.vector[0]), "=r"(u.vector[1]), "=r"(u.vector[2]), "=r"(u.vector[3])
                     : "r"(address)
                     : "memory");
    return u.value;
}

template <class T>
INFONCE_DEVICE void store_shared(SharedAddress address, T value) {
    union {
        T value;
        uint16_t half;
        uint32_t word;
        uint64_t words;
        uint32_t vector[4];
    } u;
    u.value = value;
    static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16, "2, 4, 8 or 16 bytes");
    if constexpr (sizeof(T) == 2)
        asm volatile("st.shared.u16 [%0], %1;" ::"r"(address), "h"(u.half) : "memory");
    else if constexpr (sizeof(T) == 4)
        asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(u.word) : "memory");
    else if constexpr (sizeof(T) == 8)
        asm volatile("st.shared.u64 [%0], %1;" ::"r"(address), "l"(u.words) : "memory");
    else
        asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(u.vector[0]), "r"(u.vector[1]),
                     "r"(u.vector[2]), "r"(u.vector[3])
                     : "memory");
}

#else

inline SharedAddress shared_base() { return emulator::shared_base(); }

template <class T>
inline T load_shared(SharedAddress address, INFONCE_SITE) {
    T value;
    emulator::load_shared(address, &value, sizeof(T), site);
    return value;
}

template <class T>
inline void store_shared(SharedAddress address, T value, INFONCE_SITE) {
    emulator::store_shared(address, &value, sizeof(T), site);
}

#endif

}  // namespace infonce
