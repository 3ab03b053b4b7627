//! [`ImageSet`], images of one size: loaders return it, and views are drawn from it.

/// Images of one size.
///
/// `pixels` holds `len() · height · width · channels` bytes in the order image, row, column,
/// channel (NHWC); a byte of 255 is full intensity. `channels` is 1 (grey) or 3 (red, green,
/// blue).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSet {
    /// Rows per image, in pixels.
    pub height: usize,
    /// Columns per image, in pixels.
    pub width: usize,
    /// Values per pixel: 1 or 3.
    pub channels: usize,
    /// NHWC, u8.
    pub pixels: Vec<u8>,
}

impl ImageSet {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.pixels.len().checked_div(self.image_len()).unwrap_or(0)
    }

    /// Whether the set holds no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values of one image: `height · width · channels`.
    pub fn image_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// The pixels of image `index`, `[height, width, channels]`.
    ///
    /// # Panics
    /// If `index >= len()`, like any slice.
    pub fn image(&self, index: usize) -> &[u8] {
        let length = self.image_len();
        &self.pixels[index * length..(index + 1) * length]
    }
}
