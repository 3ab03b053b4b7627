//! Image files through `data::load`: pixels equal another decoder's, and damaged files are refused.
//!
//! `tests/images/make.py` wrote the files and what they show.
#![cfg(feature = "train")]

use std::fs;
use std::path::{Path, PathBuf};

use image::{ImageError, ImageFormat};
use infonce::train::data::{self, DataError, DataSource, LoadOptions};
use tempfile::TempDir;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/images");
/// Values of one image of `tests/images`: 16 x 16, red, green, blue.
const VALUES: usize = 16 * 16 * 3;

/// A file of `tests/images`.
fn file(name: &str) -> Vec<u8> {
    fs::read(Path::new(FOLDER).join(name)).unwrap()
}

/// Name, bytes and shown pixels of each file of `tests/images`, in order of names.
fn files() -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let names = fs::read_dir(FOLDER).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "make.py" && name != "shown.png")
        .collect();
    names.sort();
    let shown = image::load_from_memory(&file("shown.png")).unwrap();
    let shown = shown.into_rgb8().into_raw();
    assert_eq!(shown.len(), names.len() * VALUES);
    let shown = shown.chunks(VALUES).map(<[u8]>::to_vec);
    let files = names.into_iter().zip(shown);
    files
        .map(|(name, shown)| (name.clone(), file(&name), shown))
        .collect()
}

/// Decodes one file at a time, as the only training image of a folder.
struct Reader {
    directory: TempDir,
    path: PathBuf,
}

impl Reader {
    /// A reader of variants of the file `name`. `whole`, the undamaged bytes, is the held-out image: it fixes the size to
    /// which images are scaled.
    fn new(name: &str, whole: &[u8]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for split in ["train", "test"] {
            fs::create_dir(directory.path().join(split)).unwrap();
        }
        fs::write(directory.path().join("test/whole.png"), whole).unwrap();
        let path = directory.path().join("train").join(name);
        Self { directory, path }
    }

    fn read(&self, bytes: &[u8]) -> Result<Vec<u8>, DataError> {
        fs::write(&self.path, bytes).unwrap();
        let source = DataSource::Folder(self.directory.path().to_path_buf());
        data::load(&source, LoadOptions::default()).map(|data| data.train.pixels)
    }

    /// The bytes must be refused with the file's name.
    #[track_caller]
    fn refused(&self, bytes: &[u8], what: &str) {
        assert!(self.refused_or(bytes, &[], what));
    }

    /// Whether the bytes are refused, with the file's name; otherwise they must give `whole`.
    #[track_caller]
    fn refused_or(&self, bytes: &[u8], whole: &[u8], what: &str) -> bool {
        let result = self.read(bytes);
        match &result {
            Ok(pixels) => assert!(pixels == whole, "{what} of {:?} is accepted", self.path),
            Err(error) => self.named(error),
        }
        result.is_err()
    }

    #[track_caller]
    fn named(&self, error: &DataError) {
        assert!(matches!(error, DataError::Undecodable { .. }), "{error}");
        let message = error.to_string();
        let name = self.path.file_name().unwrap().to_str().unwrap();
        assert!(
            message.contains(name) && message.lines().count() == 1,
            "{message}"
        );
    }
}

/// Two decoders of JPEG may round differently: in the inverse cosine transform, between samples of
/// chroma, and in the conversion to red, green and blue. Other formats, lossy WebP included, must
/// agree bit for bit.
#[test]
fn images_come_out_as_another_decoder_shows_them() {
    for (name, bytes, shown) in files() {
        let allowed = if name.ends_with(".jpg") { 3 } else { 0 };
        let pixels = Reader::new(&name, &bytes).read(&bytes).unwrap();
        assert_eq!(pixels.len(), shown.len(), "{name}");
        let differences = pixels.iter().zip(&shown).map(|(a, b)| a.abs_diff(*b));
        let largest = differences.max();
        assert!(largest <= Some(allowed), "{name}: {largest:?}");
    }
}

/// An image of `width` x `height` with details, in the given format.
fn detailed(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
    let mut state = 1_u32;
    let image = image::RgbImage::from_fn(width, height, |x, y| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = (state >> 27) as u8;
        image::Rgb([(x * 5 % 200) as u8 + noise, (y * 7 % 200) as u8, noise * 8])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

#[test]
fn a_cut_file_is_refused_or_shows_the_whole_image() {
    for (name, bytes, _) in files() {
        let reader = Reader::new(&name, &bytes);
        let whole = reader.read(&bytes).unwrap();
        let refused = (0..bytes.len())
            .filter(|&end| reader.refused_or(&bytes[..end], &whole, &format!("cut at {end}")))
            .count();
        assert!(
            refused > bytes.len() / 4,
            "{name}: {refused} of {}",
            bytes.len()
        );
    }
}

#[test]
fn a_cut_larger_file_is_refused() {
    for (name, format) in [
        ("large.png", ImageFormat::Png),
        ("large.jpg", ImageFormat::Jpeg),
        ("large.gif", ImageFormat::Gif),
        ("large.webp", ImageFormat::WebP),
        ("large.bmp", ImageFormat::Bmp),
        ("large.tif", ImageFormat::Tiff),
    ] {
        let bytes = detailed(150, 110, format);
        let reader = Reader::new(name, &bytes);
        let whole = reader.read(&bytes).unwrap();
        let cuts = (0..100).map(|percent| bytes.len() * percent / 100);
        for end in cuts.chain(bytes.len() - 40..bytes.len()) {
            reader.refused_or(&bytes[..end], &whole, &format!("cut at {end}"));
        }
        reader.refused(&bytes[..bytes.len() * 9 / 10], "nine tenths");
    }
}

#[test]
fn damaged_bytes_never_panic_and_checksums_are_heeded() {
    for (name, bytes, _) in files() {
        let reader = Reader::new(&name, &bytes);
        let whole = reader.read(&bytes).unwrap();
        for at in (0..bytes.len()).step_by(3) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            if name.ends_with(".png") {
                reader.refused_or(&damaged, &whole, &format!("a flip at {at}"));
            } else if let Err(error) = reader.read(&damaged) {
                reader.named(&error);
            }
        }
    }
}

/// Where `what` begins.
fn place(bytes: &[u8], what: &[u8]) -> usize {
    let mut windows = bytes.windows(what.len());
    windows.position(|window| window == what).unwrap()
}

/// Where the entropy-coded data of the first scan begins.
fn scan_of(jpeg: &[u8]) -> usize {
    let marker = place(jpeg, &[0xff, 0xda]);
    marker + 2 + usize::from(u16::from_be_bytes([jpeg[marker + 2], jpeg[marker + 3]]))
}

#[test]
fn a_jpeg_that_is_cut_and_closed_again_is_refused() {
    for (name, bytes, _) in files() {
        if !name.ends_with(".jpg") {
            continue;
        }
        let reader = Reader::new(&name, &bytes);
        let whole = reader.read(&bytes).unwrap();
        for at in scan_of(&bytes)..bytes.len() {
            let closed = [&bytes[..at], &[0xff, 0xd9]].concat();
            reader.refused_or(&closed, &whole, &format!("an end of image at {at}"));
        }
    }
}

#[test]
fn a_broken_jpeg_stream_is_refused() {
    for name in [
        "baseline.jpg",
        "restarts.jpg",
        "grey.jpg",
        "cmyk-inverted.jpg",
    ] {
        let bytes = file(name);
        let reader = Reader::new(name, &bytes);
        let scan = scan_of(&bytes);
        for at in scan..bytes.len() - 2 {
            let mut zeroed = bytes.clone();
            zeroed[at..].fill(0);
            reader.refused(&zeroed, "zeros to the end");
        }
        let middle = (scan + bytes.len()) / 2;
        for marker in [0xc0, 0xc4, 0xd8, 0xd9, 0xda, 0xdb] {
            let mut damaged = bytes.clone();
            damaged[middle..middle + 2].copy_from_slice(&[0xff, marker]);
            reader.refused(&damaged, &format!("marker {marker:x}"));
        }
        let mut ones = bytes.clone();
        for pair in ones[scan..scan + 8].chunks_mut(2) {
            pair.copy_from_slice(&[0xff, 0]);
        }
        reader.refused(&ones, "a code of ones only");
    }
}

#[test]
fn a_header_that_asks_for_too_much_memory_is_refused() {
    // 60,000, twice, in the formats' orders of bytes.
    let big = [0xea, 0x60, 0xea, 0x60];
    let little = [0x60, 0xea, 0x60, 0xea];
    let set = |bytes: &mut [u8], at: usize, value: &[u8]| {
        bytes[at..at + value.len()].copy_from_slice(value);
    };
    let jpeg = |name: &str, marker: u8| {
        let mut bytes = file(name);
        let frame = place(&bytes, &[0xff, marker]);
        set(&mut bytes, frame + 5, &big);
        bytes
    };
    let mut png = file("rgb.png");
    set(&mut png, 16, &[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    // The checksum of that header.
    set(&mut png, 29, &0x0fb0_e215_u32.to_be_bytes());
    let mut gif = file("palette.gif");
    set(&mut gif, 6, &little);
    let mut bmp = file("rgb.bmp");
    set(&mut bmp, 18, &[0x60, 0xea, 0, 0, 0x60, 0xea, 0, 0]);
    let mut tiff = file("rgb-16-bit.tif");
    // Width, height, and rows of the only strip, each one 16-bit value.
    for tag in [256_u16, 257, 278] {
        let entry = [tag, 3, 1, 0].map(u16::to_le_bytes).concat();
        let value = place(&tiff, &entry) + 8;
        set(&mut tiff, value, &little[..2]);
    }
    for (name, bytes) in [
        ("huge.jpg", jpeg("baseline.jpg", 0xc0)),
        ("huge-progressive.jpg", jpeg("progressive.jpg", 0xc2)),
        ("huge.png", png),
        ("huge.gif", gif),
        ("huge.bmp", bmp),
        ("huge.tif", tiff),
    ] {
        let reader = Reader::new(name, &file("rgb.png"));
        let error = reader.read(&bytes).expect_err(name);
        reader.named(&error);
        let DataError::Undecodable { source, .. } = error else {
            panic!("{error}");
        };
        assert!(matches!(source, ImageError::Limits(_)), "{source}");
    }
}
