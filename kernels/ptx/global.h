// Loads and stores of one value in global memory. The emulator reports accesses to bytes not allocated or not written.
#pragma once

#include "ptx/kernel.h"
#include "ptx/types.h"

namespace infonce {

#ifdef __CUDACC__

// Tells the compiler that a pointer which was read from memory points to global memory.
template <class T>
INFONCE_DEVICE T* global_pointer(T* address) {
    __builtin_assume(__isGlobal(address));
    return address;
}

template <class T>
INFONCE_DEVICE T load_global(const T* from) {
    if constexpr (sizeof(T) <= 8) {
        union {
            T value;
            typename Bits<sizeof(T)>::Type bits;
        } u;
        u.bits = *reinterpret_cast<const typename Bits<sizeof(T)>::Type*>(from);
        return u.value;
    } else {
        return *from;
    }
}

template <class T>
INFONCE_DEVICE void store_global(T* to, T value) {
    if constexpr (sizeof(T) <= 8) {
        union {
            T value;
            typename Bits<sizeof(T)>::Type bits;
        } u;
        u.value = value;
        *reinterpret_cast<typename Bits<sizeof(T)>::Type*>(to) = u.bits;
    } else {
        *to = value;
    }
}

#else

template <class T>
inline T* global_pointer(T* address) {
    return address;
}

template <class T>
inline T load_global(const T* from, INFONCE_SITE) {
    T value;
    emulator::load_global(from, &value, sizeof(T), site);
    return value;
}

template <class T>
inline void store_global(T* to, T value, INFONCE_SITE) {
    emulator::store_global(to, &value, sizeof(T), site);
}

#endif

}  // namespace infonce
