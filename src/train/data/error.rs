//! What can go wrong while reading images, sorted into bad input and failing I/O.

use std::path::PathBuf;

/// What helps where some files of many are broken.
const SKIP: &str = "--skip-unreadable leaves such files out";

/// Why a data set could not be read. Each message names the file, what was found and what is
/// allowed.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused or failed to read something that exists.
    #[error("could not read {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file or directory that the source needs is not there.
    #[error("{} is missing: expected {wanted}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// What should have been there.
        wanted: String,
    },
    /// The first bytes are not those of the format.
    #[error("{} begins with 0x{found:08x}, expected {expected}", path.display())]
    WrongMagic {
        /// The file.
        path: PathBuf,
        /// Its first four bytes, big-endian.
        found: u32,
        /// The allowed beginnings.
        expected: String,
    },
    /// The contents contradict themselves.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The length is not what the header or the record size asks for.
    #[error("{} holds {found} bytes, expected {expected}", path.display())]
    WrongLength {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        found: u64,
        /// The allowed length.
        expected: String,
    },
    /// A header names an image shape that cannot be trained on.
    #[error("{} has images of {found}, allowed are {allowed}", path.display())]
    UnsupportedShape {
        /// The file.
        path: PathBuf,
        /// The shape in the header.
        found: String,
        /// The allowed shapes.
        allowed: String,
    },
    /// An array of another type.
    #[error("{} holds elements of type {found}, allowed are {allowed}", path.display())]
    UnsupportedType {
        /// The file.
        path: PathBuf,
        /// The type in the header.
        found: String,
        /// The allowed types.
        allowed: &'static str,
    },
    /// Too few images to hold one out and train on another.
    #[error(
        "none of the {found} images of {} can be held out; that takes a class of at least 2",
        path.display()
    )]
    NothingHeldOut {
        /// The file.
        path: PathBuf,
        /// Its number of images.
        found: usize,
    },
    /// A file and its partner disagree about the number of images.
    #[error(
        "{} holds {images} images but {} holds {labels} labels",
        images_path.display(),
        labels_path.display()
    )]
    CountMismatch {
        /// The image file.
        images_path: PathBuf,
        /// Its number of images.
        images: usize,
        /// The label file.
        labels_path: PathBuf,
        /// Its number of labels.
        labels: usize,
    },
    /// A label that names no class.
    #[error("{}: the label of image {index} is {found}, allowed is 0 to {largest}", path.display())]
    LabelOutOfRange {
        /// The file.
        path: PathBuf,
        /// Which image, from 0.
        index: usize,
        /// Its label.
        found: u32,
        /// The largest label allowed.
        largest: u32,
    },
    /// A file holds no image at all.
    #[error("{} holds no images", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A folder of images without enough of them.
    #[error("{} holds {found} images ({extensions}), expected {expected}", path.display())]
    TooFewImages {
        /// The folder.
        path: PathBuf,
        /// Number of images in it that can be read.
        found: usize,
        /// The file name extensions that count as images.
        extensions: &'static str,
        /// What is needed.
        expected: &'static str,
    },
    /// A run's folder given as a folder of images.
    #[error("{} is the folder of a run, expected a folder of images", path.display())]
    RunFolder {
        /// The folder.
        path: PathBuf,
    },
    /// Training and held-out folders do not name the same classes.
    #[error(
        "{} has no {}, which {} has",
        path.display(),
        match class {
            Some(class) => format!("images of class {class:?}"),
            None => "images without a class folder".to_owned(),
        },
        other.display()
    )]
    ClassMismatch {
        /// The folder that lacks it.
        path: PathBuf,
        /// The class; `None` for images without a class folder.
        class: Option<String>,
        /// The folder that has it.
        other: PathBuf,
    },
    /// The system refused or failed to read an image file.
    #[error("could not read {}: {source} ({SKIP})", path.display())]
    UnreadableImage {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An image file that does not decode.
    #[error("{} cannot be decoded as an image: {source} ({SKIP})", path.display())]
    Undecodable {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        source: image::ImageError,
    },
    /// Training and held-out images differ in size.
    #[error("{} has images of {test}, but the training images are {train}", path.display())]
    ShapeMismatch {
        /// The held-out file.
        path: PathBuf,
        /// Held-out `height x width x channels`.
        test: String,
        /// Training `height x width x channels`.
        train: String,
    },
}

impl DataError {
    /// Whether the system failed (a disk, a permission), as opposed to input that is not what it
    /// should be.
    pub fn is_io(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::UnreadableImage { .. })
    }
}
