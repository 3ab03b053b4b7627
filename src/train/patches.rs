//! Cuts images into the overlapping patches that the encoder's first layer multiplies.
//!
//! A convolution is a matrix product over patches. The images carry no gradient, so the patches of
//! the first layer are laid out here, on the host, once per batch; what is left of the layer is one
//! product with the filters. The grid of patches is walked in nested 2 × 2 blocks (a Z-order
//! curve), and so the four rows that a later 2 × 2 convolution of stride 2 takes together already
//! lie one after the other: it needs a reshape and a product, and moves nothing.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

/// The finest grid that the first layer computes on, along the longer side of the image.
const FINEST_GRID: usize = 16;

/// Where the patches of an image lie, from the image's size alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchGrid {
    height: usize,
    width: usize,
    channels: usize,
    stride: usize,
    kernel: usize,
    /// Zeros added on every side of the image so that each patch lies inside: top and left.
    before: [usize; 2],
    /// Size of the image with its zeros.
    padded: [usize; 2],
    /// Top left corner of each patch in the padded image, in nested order.
    corners: Vec<[usize; 2]>,
}

impl PatchGrid {
    /// The grid for images of `height` × `width` pixels and `channels` channels, all at least 1,
    /// when `halvings` layers of stride 2 follow.
    ///
    /// The stride is the least that leaves at most 16 patches along a side: 1 for 8 × 8 images, 2
    /// for 32 × 32, 4 for 64 × 64. Patches reach one pixel beyond the stride on every side, so that
    /// neighbours overlap. The grid is as large as a whole number of nested blocks needs, and the
    /// image lies in its middle, in zeros.
    pub fn new(height: usize, width: usize, channels: usize, halvings: u32) -> Self {
        let stride = height.max(width).div_ceil(FINEST_GRID);
        let kernel = stride + 2;
        let block = 1 << halvings;
        let [rows, columns] =
            [height, width].map(|side| side.div_ceil(stride).next_multiple_of(block));
        let before =
            [(rows, height), (columns, width)].map(|(cells, side)| (cells * stride - side) / 2 + 1);
        let padded = [rows, columns].map(|cells| (cells - 1) * stride + kernel);
        let corners = nested_order(rows, columns, halvings)
            .into_iter()
            .map(|cell| cell.map(|place| place * stride))
            .collect();
        Self {
            height,
            width,
            channels,
            stride,
            kernel,
            before,
            padded,
            corners,
        }
    }

    /// Pixels from one patch to the next.
    pub fn stride(&self) -> usize {
        self.stride
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
            .for_each_init(
                || vec![0.0; self.channels * self.padded[0] * self.padded[1]],
                |padded, (patches, image)| {
                    self.pad(image, padded);
                    for (patch, &corner) in patches.chunks_exact_mut(row).zip(&self.corners) {
                        self.cut_one(padded, corner, patch);
                    }
                },
            );
        patches
    }

    /// The patches of `images` as a matrix, and how many images there are.
    pub fn tensor<B: Backend>(&self, images: &[f32]) -> (Tensor<B, 2>, usize) {
        let count = images.len() / self.image_len();
        let shape = [count * self.patches(), self.patch_len()];
        let patches = TensorData::new(self.cut(images), shape);
        (Tensor::from_data(patches, &Default::default()), count)
    }

    /// Copies an image into the middle of `padded`, whose border is zero already.
    fn pad(&self, image: &[f32], padded: &mut [f32]) {
        let [padded_height, padded_width] = self.padded;
        for (line, values) in image.chunks_exact(self.width).enumerate() {
            let (channel, y) = (line / self.height, line % self.height);
            let start =
                (channel * padded_height + y + self.before[0]) * padded_width + self.before[1];
            padded[start..start + self.width].copy_from_slice(values);
        }
    }

    fn cut_one(&self, padded: &[f32], [top, left]: [usize; 2], patch: &mut [f32]) {
        let [padded_height, padded_width] = self.padded;
        for (line, values) in patch.chunks_exact_mut(self.kernel).enumerate() {
            let (channel, y) = (line / self.kernel, line % self.kernel);
            let start = (channel * padded_height + top + y) * padded_width + left;
            values.copy_from_slice(&padded[start..start + self.kernel]);
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
    fn the_stride_follows_the_image() {
        let found = [1, 8, 16, 28, 32, 64, 224].map(|side| {
            let grid = PatchGrid::new(side, side, 1, 2);
            (grid.stride(), grid.patches())
        });
        assert_eq!(
            found,
            [
                (1, 16),
                (1, 64),
                (1, 256),
                (2, 256),
                (2, 256),
                (4, 256),
                (14, 256)
            ]
        );
    }

    #[test]
    fn patches_are_those_of_a_padded_convolution() {
        for (height, width, channels) in [(5, 9, 3), (8, 8, 1), (20, 33, 3), (1, 1, 1)] {
            let grid = PatchGrid::new(height, width, channels, 1);
            let images: Vec<f32> = (0..2 * grid.image_len()).map(|i| 1.0 + i as f32).collect();
            let patches = grid.cut(&images);
            assert_eq!(patches.len(), 2 * grid.patches() * grid.patch_len());
            for (row, patch) in patches.chunks_exact(grid.patch_len()).enumerate() {
                let image = &images[row / grid.patches() * grid.image_len()..][..grid.image_len()];
                let corner = grid.corners[row % grid.patches()];
                for (place, &value) in patch.iter().enumerate() {
                    let channel = place / (grid.kernel * grid.kernel);
                    let inside = [place / grid.kernel % grid.kernel, place % grid.kernel];
                    let [y, x] = [0, 1].map(|axis| {
                        (corner[axis] + inside[axis]) as isize - grid.before[axis] as isize
                    });
                    let is_inside =
                        (0..height as isize).contains(&y) && (0..width as isize).contains(&x);
                    let expected = if is_inside {
                        image[(channel * height + y as usize) * width + x as usize]
                    } else {
                        0.0
                    };
                    assert_eq!(value, expected);
                }
            }
        }
    }

    #[test]
    fn every_pixel_is_in_some_patch() {
        for (height, width) in [(8, 8), (28, 28), (32, 32), (17, 40), (3, 50)] {
            let grid = PatchGrid::new(height, width, 1, 2);
            let images: Vec<f32> = (1..=grid.image_len()).map(|i| i as f32).collect();
            let mut seen = vec![false; grid.image_len() + 1];
            for value in grid.cut(&images) {
                seen[value as usize] = true;
            }
            assert!(seen[1..].iter().all(|&seen| seen), "{height} x {width}");
        }
    }
}
