//! The table of kernels, which the build makes from kernels/list.h: a constant for each family of kernels, and the
//! constants that launches and kernels share.

use super::arithmetic::Arithmetic;

/// A kernel: its tile, and the size of its blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel {
    pub name: &'static str,
    /// Path below `kernels/`.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(dead_code, reason = "CUDA finds images by it")
    )]
    pub source: &'static str,
    /// The type that the kernel multiplies. Private, so that no kernel is made elsewhere.
    arithmetic: Option<Arithmetic>,
    /// Most elements of a row; 0: no limit.
    pub dim: usize,
    /// Rows and columns of a tile.
    pub rows: usize,
    pub columns: usize,
    /// Blocks that an SM of Hopper holds at a time.
    pub resident: usize,
    /// Blocks of a cluster.
    pub cluster: u32,
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

/// The kernels of one pass, for each type and largest D: portable, and for sm_90a.
pub(super) type Family = [&'static [Kernel]; 2];

include!(concat!(env!("OUT_DIR"), "/list.rs"));

impl Kernel {
    pub(crate) fn warps(&self) -> usize {
        self.threads as usize / 32
    }

    /// A grid of at least `threads` threads.
    pub(crate) fn grid(&self, threads: usize) -> [u32; 3] {
        [threads.div_ceil(self.threads as usize) as u32, 1, 1]
    }

    /// A kernel that only tests have.
    #[cfg(all(test, any(feature = "emulator-tests", feature = "cuda")))]
    pub(crate) const fn planted(name: &'static str, threads: u32, shared_bytes: u32) -> Self {
        Self {
            name,
            threads,
            shared_bytes,
            ..*ADVANCE_CURSOR
        }
    }
}

/// The kernel of a family for rows of `dim` elements: the one with the smallest limit that holds them.
pub(super) fn find(
    family: &'static [Kernel],
    arithmetic: Arithmetic,
    dim: usize,
) -> Option<&'static Kernel> {
    let most = |kernel: &Kernel| match kernel.dim {
        0 => usize::MAX,
        most => most,
    };
    let of_type = |kernel: &&Kernel| kernel.arithmetic == Some(arithmetic);
    let serving = family.iter().filter(of_type).filter(|it| most(it) >= dim);
    serving.min_by_key(|kernel| most(kernel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_kernel_that_holds_a_row_serves() {
        let name = |family, dim| find(family, Arithmetic::Bf16, dim).map(|kernel| kernel.name);
        assert_eq!(name(GRADIENT_KNOWN, 65), Some("gradient_known_bf16_128"));
        assert_eq!(name(GRADIENT_KNOWN, 257), None);
        assert_eq!(name(HOPPER_BEST, 256), Some("hopper_best_bf16_256"));
        assert_eq!(name(HOPPER_BEST, 257), Some("hopper_best_bf16"));
    }

    #[test]
    fn tile_loops_and_products_of_a_path_have_one_tile() {
        let portable = [STATISTICS, EXPONENTIALS, WEIGHTS, SCORES, PRODUCT].concat();
        let hopper = [
            HOPPER_STATISTICS,
            HOPPER_WEIGHTS,
            HOPPER_BEST,
            HOPPER_PRODUCT,
        ]
        .concat();
        for kernels in [portable, hopper] {
            let tile = |kernel: &Kernel| [kernel.rows, kernel.columns, kernel.cluster as usize];
            let first = tile(&kernels[0]);
            assert!(kernels.iter().all(|kernel| tile(kernel) == first));
        }
    }
}
