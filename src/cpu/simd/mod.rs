//! The microkernels: for each instruction set, one tile of a matrix product and loops over rows for the softmax.
//!
//! Both operands are made of 4-byte *items*. An f32 item is one element; a bf16 item is two neighbours along the
//! summed axis, the first in the lower half. One set of loops drives both; they differ in `depth`, the elements
//! of an item.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dot;
mod exp;
mod kernel;
mod portable;
mod set;

pub(crate) use kernel::{Item, Kernel, Left, Output, Right};
pub(crate) use set::{Set, SetTerms};

impl Kernel {
    /// This CPU's fastest kernel for f32 items.
    pub fn for_f32() -> &'static Kernel {
        vector_kernels().next().unwrap_or(&portable::F32)
    }

    /// The kernel for bf16 items, where the CPU multiplies bf16 pairs.
    #[cfg(target_arch = "x86_64")]
    pub fn for_bf16() -> Option<&'static Kernel> {
        avx512::bf16_kernel()
    }

    /// `None`: only x86-64 has one.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn for_bf16() -> Option<&'static Kernel> {
        None
    }

    /// All kernels for f32 items that run here.
    #[cfg(test)]
    pub fn all_of_f32() -> impl Iterator<Item = &'static Kernel> {
        vector_kernels().chain([&portable::F32])
    }

    /// All kernels for bf16 items that run here, the portable one included.
    #[cfg(test)]
    pub fn all_of_bf16() -> impl Iterator<Item = &'static Kernel> {
        Self::for_bf16().into_iter().chain([&portable::BF16])
    }
}

/// The vector kernels for f32 items that run on this CPU, the fastest first.
fn vector_kernels() -> impl Iterator<Item = &'static Kernel> {
    #[cfg(target_arch = "x86_64")]
    let kernels = [avx512::f32_kernel(), avx2::kernel()];
    #[cfg(not(target_arch = "x86_64"))]
    let kernels = [None];
    kernels.into_iter().flatten()
}
