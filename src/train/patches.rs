//! Cuts images into the overlapping patches that the encoder's first layer multiplies.
//!
//! A convolution is a matrix product over patches. Images carry no gradient, so that their patches
//! are cut here once per batch, in host memory, and the first layer is one product with its
//! filters. The patches are in nested order: 2 × 2 blocks of 2 × 2 blocks (a Z-order curve). The
//! four rows that a later 2 × 2 convolution of stride 2 takes are therefore adjacent, and that
//! layer is a reshape and a product.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

/// Maximum number of patches along the longer side of an image.
const FINEST_GRID: usize = 16;

/// The positions of the patches of an image, which follow from its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchGrid {
    height: usize,
    width: usize,
    channels: usize,
    kernel: usize,
    /// Zeros above and to the left of the image.
    before: [usize; 2],
    /// Top left corner of each patch, from the first zero on, in nested order.
    corners: Vec<[usize; 2]>,
}

impl PatchGrid {
    /// The grid for images of `height` × `width` pixels and `channels` channels, all at least 1,
    /// when `halvings` layers of stride 2 follow.
    ///
    /// The stride is the smallest that leaves at most 16 patches along a side: 1 for 8 × 8 images,
    /// 2 for 32 × 32, 4 for 64 × 64. Patches extend one pixel beyond the stride on every side, so
    /// that neighbours overlap. The grid is a whole number of nested blocks; the image lies in its
    /// middle, surrounded by zeros.
    pub fn new(height: usize, width: usize, channels: usize, halvings: u32) -> Self {
        let stride = height.max(width).div_ceil(FINEST_GRID);
        let kernel = stride + 2;
        let block = 1 << halvings;
        let [rows, columns] =
            [height, width].map(|side| side.div_ceil(stride).next_multiple_of(block));
        let before =
            [(rows, height), (columns, width)].map(|(cells, side)| (cells * stride - side) / 2 + 1);
        let corners = nested_order(rows, columns, halvings)
            .into_iter()
            .map(|cell| cell.map(|place| place * stride))
            .collect();
        Self {
            height,
            width,
            channels,
            kernel,
            before,
            corners,
        }
    }

    /// Patches per image; 4 to the power of `halvings` divides it.
    pub fn patches(&self) -> usize {
        self.corners.len()
    }

    /// Values per patch: channels · kernel².
    pub fn patch_len(&self) -> usize {
        self.channels * self.kernel * self.kernel
    }

    /// Values per image: channels · height · width.
    pub fn image_len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// The patches of `images` (whole images, NCHW): N · [`patches`](Self::patches) rows of
    /// [`patch_len`](Self::patch_len) values in the order channel, row, column.
    pub fn cut(&self, images: &[f32]) -> Vec<f32> {
        let row = self.patch_len();
        let count = images.len() / self.image_len();
        let mut patches = vec![0.0; count * self.patches() * row];
        patches
            .par_chunks_exact_mut(self.patches() * row)
            .zip(images.par_chunks_exact(self.image_len()))
            .for_each(|(patches, image)| {
                for (patch, &corner) in patches.chunks_exact_mut(row).zip(&self.corners) {
                    self.cut_one(image, corner, patch);
                }
            });
        patches
    }

    /// The patches of `images` as a matrix, and how many images there are.
    pub fn tensor<B: Backend>(&self, images: &[f32]) -> (Tensor<B, 2>, usize) {
        let count = images.len() / self.image_len();
        let shape = [count * self.patches(), self.patch_len()];
        let patches = TensorData::new(self.cut(images), shape);
        (Tensor::from_data(patches, &Default::default()), count)
    }

    /// Copies the pixels of the patch that are inside the image; the rest of `patch` is zero
    /// already.
    fn cut_one(&self, image: &[f32], [top, left]: [usize; 2], patch: &mut [f32]) {
        let [above, before] = self.before;
        let (skipped, first) = (before.saturating_sub(left), left.saturating_sub(before));
        let end = (left + self.kernel).saturating_sub(before).min(self.width);
        let count = end.saturating_sub(first);
        for (line, values) in patch.chunks_exact_mut(self.kernel).enumerate() {
            let (channel, y) = (line / self.kernel, top + line % self.kernel);
            if (above..above + self.height).contains(&y) && count > 0 {
                let row = channel * self.height + y - above;
                let pixels = &image[row * self.width + first..][..count];
                values[skipped..skipped + count].copy_from_slice(pixels);
            }
        }
    }
}

/// The cells (row, column) of a grid in nested order: blocks of 2^`levels` cells a side from left
/// to right and top to bottom, and within each its four quarters likewise, down to single cells.
fn nested_order(rows: usize, columns: usize, levels: u32) -> Vec<[usize; 2]> {
    let mut cells = Vec::with_capacity(rows * columns);
    let block = 1 << levels;
    for top in (0..rows).step_by(block) {
        for left in (0..columns).step_by(block) {
            for place in 0..block * block {
                // The bits of `place` are, from the lowest: column, row, column, row, ….
                let every_other = |first: u32| {
                    (0..levels).fold(0, |side, level| {
                        side | ((place >> (2 * level + first)) & 1) << level
                    })
                };
                cells.push([top + every_other(1), left + every_other(0)]);
            }
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_rows_in_a_row_are_always_a_square() {
        let cells = nested_order(8, 12, 2);
        assert_eq!(cells.len(), 96);
        let mut sorted = cells.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), 96, "each cell once");
        for (size, side) in [(4, 2), (16, 4)] {
            for group in cells.chunks_exact(size) {
                let [top, left] = group[0];
                assert!(top % side == 0 && left % side == 0);
                assert!(group.iter().all(|[row, column]| {
                    (top..top + side).contains(row) && (left..left + side).contains(column)
                }));
            }
        }
        assert_eq!(cells[..4], [[0, 0], [0, 1], [1, 0], [1, 1]]);
    }

    #[test]
    fn the_kernel_follows_the_image() {
        for (side, kernel, patches) in [
            (1, 3, 16),
            (8, 3, 64),
            (16, 3, 256),
            (28, 4, 256),
            (64, 6, 256),
            (224, 16, 256),
        ] {
            let grid = PatchGrid::new(side, side, 1, 2);
            assert_eq!((grid.kernel, grid.patches()), (kernel, patches), "{side}");
        }
    }

    #[test]
    fn patches_are_those_of_a_padded_convolution_over_every_pixel() {
        for (height, width, channels, halvings) in [
            (5, 9, 3, 1),
            (8, 8, 1, 2),
            (20, 33, 3, 1),
            (1, 1, 1, 1),
            (28, 28, 1, 2),
            (17, 40, 1, 2),
            (3, 50, 1, 2),
        ] {
            let grid = PatchGrid::new(height, width, channels, halvings);
            let images: Vec<f32> = (0..2 * grid.image_len()).map(|i| 1.0 + i as f32).collect();
            let patches = grid.cut(&images);
            assert_eq!(patches.len(), 2 * grid.patches() * grid.patch_len());
            let mut seen = vec![false; images.len()];
            for (place, &value) in patches.iter().enumerate() {
                let (row, place) = (place / grid.patch_len(), place % grid.patch_len());
                let (image, patch) = (row / grid.patches(), row % grid.patches());
                let channel = image * channels + place / (grid.kernel * grid.kernel);
                let inside = [place / grid.kernel % grid.kernel, place % grid.kernel];
                let [y, x] = [0, 1].map(|axis| {
                    (grid.corners[patch][axis] + inside[axis]).checked_sub(grid.before[axis])
                });
                let pixel = y.filter(|&y| y < height).zip(x.filter(|&x| x < width));
                let pixel = pixel.map(|(y, x)| (channel * height + y) * width + x);
                assert_eq!(value, pixel.map_or(0.0, |pixel| images[pixel]));
                pixel.into_iter().for_each(|pixel| seen[pixel] = true);
            }
            assert!(seen.iter().all(|&seen| seen), "{height} x {width}");
        }
    }
}
