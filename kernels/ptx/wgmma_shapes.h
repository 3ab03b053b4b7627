// The bodies of WarpgroupProduct<T, N> (ptx/wgmma.h), one a type and N. The instruction names every accumulator.
#pragma once

#include "ptx/types.h"
#include "ptx/wgmma.h"

namespace infonce {

#ifdef __CUDACC__

#define INFONCE_D32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define INFONCE_D48 INFONCE_D32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define INFONCE_D64 INFONCE_D48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define INFONCE_D96 INFONCE_D64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define INFONCE_D128 INFONCE_D96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

#define INFONCE_F8(I)                                                                                 \
    "+f"(d[I]), "+f"(d[I + 1]), "+f"(d[I + 2]), "+f"(d[I + 3]), "+f"(d[I + 4]), "+f"(d[I + 5]),       \
        "+f"(d[I + 6]), "+f"(d[I + 7])
#define INFONCE_F16(I) INFONCE_F8(I), INFONCE_F8(I + 8)
#define INFONCE_F32 INFONCE_F16(0), INFONCE_F16(16)
#define INFONCE_F48 INFONCE_F32, INFONCE_F16(32)
#define INFONCE_F64 INFONCE_F48, INFONCE_F16(48)
#define INFONCE_F96 INFONCE_F64, INFONCE_F16(64), INFONCE_F16(80)
#define INFONCE_F128 INFONCE_F96, INFONCE_F16(96), INFONCE_F16(112)

// I1 to I7: asm numbers of the operands after the accumulators.
#define INFONCE_WGMMA(T, TYPE, N, D, F, I1, I2, I3, I4, I5, I6, I7)                                             \
    template <>                                                                                             \
    struct WarpgroupProduct<T, N> {                                                                         \
        template <bool A_ACROSS, bool B_ACROSS>                                                             \
        INFONCE_DEVICE static void shared(float (&d)[N / 2], MatrixDescriptor a, MatrixDescriptor b,        \
                                          bool accumulate) {                                                \
            asm volatile("{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, " I3 ", 0;\n"                  \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" D "}, "        \
                         I1 ", " I2 ", accumulate, 1, 1, " I4 ", " I5 ";\n}"                                \
                         : F                                                                                \
                         : "l"(a.bits), "l"(b.bits), "r"(int(accumulate)), "n"(int(A_ACROSS)),              \
                           "n"(int(B_ACROSS))                                                               \
                         : "memory");                                                                       \
        }                                                                                                   \
        template <bool B_ACROSS>                                                                            \
        INFONCE_DEVICE static void registers(float (&d)[N / 2], const uint32_t (&a)[4], MatrixDescriptor b, \
                                             bool accumulate) {                                             \
            asm volatile("{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, " I6 ", 0;\n"                  \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" D "}, "        \
                         "{" I1 ", " I2 ", " I3 ", " I4 "}, " I5 ", accumulate, 1, 1, " I7 ";\n}"           \
                         : F                                                                                \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.bits), "r"(int(accumulate)),   \
                           "n"(int(B_ACROSS))                                                               \
                         : "memory");                                                                       \
        }                                                                                                   \
    }

#define INFONCE_SHAPES(T, TYPE)                                                                                     \
    INFONCE_WGMMA(T, TYPE, 64, INFONCE_D32, INFONCE_F32, "%32", "%33", "%34", "%35", "%36", "%37", "%38");          \
    INFONCE_WGMMA(T, TYPE, 96, INFONCE_D48, INFONCE_F48, "%48", "%49", "%50", "%51", "%52", "%53", "%54");          \
    INFONCE_WGMMA(T, TYPE, 128, INFONCE_D64, INFONCE_F64, "%64", "%65", "%66", "%67", "%68", "%69", "%70");         \
    INFONCE_WGMMA(T, TYPE, 192, INFONCE_D96, INFONCE_F96, "%96", "%97", "%98", "%99", "%100", "%101", "%102");      \
    INFONCE_WGMMA(T, TYPE, 256, INFONCE_D128, INFONCE_F128, "%128", "%129", "%130", "%131", "%132", "%133", "%134")
INFONCE_SHAPES(bf16, "bf16");
INFONCE_SHAPES(f16, "f16");

// e4m3 has no flag for a summed axis across rows.
template <>
struct WarpgroupProduct<e4m3, 256> {
    template <bool A_ACROSS, bool B_ACROSS>
    INFONCE_DEVICE static void shared(float (&d)[128], MatrixDescriptor a, MatrixDescriptor b, bool accumulate) {
        static_assert(!A_ACROSS && !B_ACROSS, "the summed axis of e4m3 lies along rows");
        asm volatile("{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %130, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n256k32.f32.e4m3.e4m3 {" INFONCE_D128 "}, "
                     "%128, %129, accumulate, 1, 1;\n}"
                     : INFONCE_F128
                     : "l"(a.bits), "l"(b.bits), "r"(int(accumulate))
                     : "memory");
    }
};

#undef INFONCE_SHAPES
#undef INFONCE_WGMMA
#undef INFONCE_F128
#undef INFONCE_F96
#undef INFONCE_F64
#undef INFONCE_F48
#undef INFONCE_F32
#undef INFONCE_F16
#undef INFONCE_F8
#undef INFONCE_D128
#undef INFONCE_D96
#undef INFONCE_D64
#undef INFONCE_D48
#undef INFONCE_D32

#else

template <class T>
constexpr emulator::ElementType TYPE_OF = emulator::ElementType::BF16;
template <>
inline constexpr emulator::ElementType TYPE_OF<f16> = emulator::ElementType::F16;
template <>
inline constexpr emulator::ElementType TYPE_OF<e4m3> = emulator::ElementType::E4M3;

template <class T, int N>
struct WarpgroupProduct {
    static_assert(N == 64 || N == 96 || N == 128 || N == 192 || N == 256, "no other shape has a device body");
    template <bool A_ACROSS, bool B_ACROSS>
    static void shared(float (&d)[N / 2], MatrixDescriptor a, MatrixDescriptor b, bool accumulate, INFONCE_SITE) {
        static_assert(sizeof(T) == 2 || (N == 256 && !A_ACROSS && !B_ACROSS), "the shape of e4m3");
        emulator::wgmma({d, N, nullptr, a.bits, b.bits, accumulate, A_ACROSS, B_ACROSS, TYPE_OF<T>, site});
    }
    template <bool B_ACROSS>
    static void registers(float (&d)[N / 2], const uint32_t (&a)[4], MatrixDescriptor b, bool accumulate, INFONCE_SITE) {
        static_assert(sizeof(T) == 2, "e4m3 is in shared memory");
        emulator::wgmma({d, N, a, 0, b.bits, accumulate, false, B_ACROSS, TYPE_OF<T>, site});
    }
};

#endif

}  // namespace infonce
