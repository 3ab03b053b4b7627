// Moves registers between the warpgroups of a block (setmaxnreg, sm_90a). All four warps of a warpgroup execute it and
// have REGISTERS a thread afterwards. take_registers waits until other warpgroups have given enough.
#pragma once

#include "ptx/kernel.h"

namespace infonce {

#ifdef __CUDACC__
template <int REGISTERS>
INFONCE_DEVICE void give_registers() {
    static_assert(REGISTERS % 8 == 0 && REGISTERS >= 24 && REGISTERS <= 256, "a multiple of 8 from 24 to 256");
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS>
INFONCE_DEVICE void take_registers() {
    static_assert(REGISTERS % 8 == 0 && REGISTERS >= 24 && REGISTERS <= 256, "a multiple of 8 from 24 to 256");
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
#else
template <int REGISTERS>
inline void give_registers() {}
template <int REGISTERS>
inline void take_registers() {}
#endif

}  // namespace infonce
