//! The kernels in this binary: an image for each source file, and each kernel's registers and memory.

use crate::launch::kernels::Kernel;

/// One source file, compiled for all architectures.
#[derive(Debug)]
pub(super) struct Image {
    /// Path below `kernels/`.
    pub(super) source: &'static str,
    /// A fatbin.
    pub(super) bytes: &'static Aligned<[u8]>,
}

/// Bytes at a multiple of 64: the driver reads an image's headers as words.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Aligned<B: ?Sized>(pub(super) B);

/// The images that the build compiled from `kernels/`; none where only documentation is built.
pub(super) static IMAGES: &[Image] = include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// Registers, memory and barriers of one kernel on one architecture, as ptxas reported them in the build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct KernelResources {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// For example `sm_80`.
    pub architecture: &'static str,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes that a thread's spills write to memory.
    pub spill_stores: u32,
    /// Bytes that a thread's spills read from memory.
    pub spill_loads: u32,
    /// Bytes of a thread's stack, in memory.
    pub stack: u32,
    /// Bytes of a block's static shared memory.
    pub shared: u32,
    /// Named barriers of a block.
    pub barriers: u32,
    /// Waits for `wgmma` that ptxas added to the source's, by its warnings.
    pub product_waits: u32,
    /// `None` for kernels without `wgmma`, and where the build found no `cuobjdump` and `nvdisasm` beside nvcc.
    pub machine_code: Option<MachineCode>,
}

/// Counts of instructions in a kernel's machine code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MachineCode {
    /// Exponentials between the issue of `wgmma` and the wait for the last of them.
    pub exponentials_beside_products: u32,
    /// Loads from global memory in the tile loop, the innermost that holds both `wgmma` and exponentials.
    pub tile_loads: u32,
}

static RESOURCES: &[KernelResources] = include!(concat!(env!("OUT_DIR"), "/resources.rs"));

/// The resources of every kernel in this binary, by name and architecture.
pub fn kernels() -> &'static [KernelResources] {
    RESOURCES
}

/// The release of nvcc that compiled them, as "13.0.88", where it said one.
pub fn compiler() -> Option<&'static str> {
    option_env!("INFONCE_NVCC")
}

/// The image that holds a kernel.
pub(super) fn holding(kernel: &Kernel) -> Option<&'static Image> {
    IMAGES.iter().find(|image| image.source == kernel.source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resources_of_every_kernel_are_known() {
        for kernel in kernels() {
            assert!(kernel.registers > 0, "{kernel:?}");
        }
    }

    #[test]
    fn images_are_fatbins_that_start_at_whole_words() {
        for Image { source, bytes, .. } in IMAGES {
            assert_eq!(bytes.0.as_ptr() as usize % 64, 0);
            assert_eq!(bytes.0[..4], 0xBA55_ED50_u32.to_le_bytes(), "{source}");
        }
    }

    /// Fails with the kernels for which `does` holds.
    fn none(does: impl Fn(&&KernelResources) -> bool) {
        let found: Vec<_> = kernels().iter().filter(does).collect();
        assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn no_kernel_spills_registers() {
        none(|kernel| kernel.spill_stores + kernel.spill_loads > 0);
    }

    #[test]
    fn no_product_waits_where_the_source_does_not() {
        none(|kernel| kernel.product_waits > 0);
    }

    /// As `cuobjdump` and `nvdisasm` show it; the README's line installs both with nvcc.
    fn machine_code(family: &str) -> Vec<(&'static str, MachineCode)> {
        let read: Vec<_> = kernels()
            .iter()
            .filter(|kernel| kernel.kernel.starts_with(family) && kernel.architecture == "sm_90a")
            .map(|kernel| {
                let code = kernel.machine_code;
                let code = code.expect("cuobjdump and nvdisasm stand beside nvcc");
                (kernel.kernel, code)
            })
            .collect();
        assert!(!read.is_empty(), "{family}");
        read
    }

    #[test]
    fn exponentials_of_fused_gradients_run_beside_products() {
        for (kernel, code) in machine_code("hopper_gradient") {
            // A thread has at least 32 logits a tile.
            let beside = code.exponentials_beside_products;
            assert!(beside >= 32, "{kernel}: {beside}");
        }
    }

    /// But for kernels with options, whose epilogues load ids, labels and biases of the tile's columns.
    #[test]
    fn no_tile_waits_for_a_load_from_global_memory() {
        let has_options = |kernel: &str| {
            ["_one_", "_sets_", "_two_", "_point_"]
                .iter()
                .any(|terms| kernel.contains(terms))
        };
        for (kernel, code) in machine_code("hopper_") {
            assert_eq!(code.tile_loads > 0, has_options(kernel), "{kernel}");
        }
    }
}
