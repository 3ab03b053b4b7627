//! Data sets and their sources: the built-in demo set, folders of images, MNIST's IDX files,
//! CIFAR's binary files, NumPy's arrays.
//!
//! Every loader returns a [`Dataset`], so that no other module knows a file format. Only the
//! evaluation uses labels.

mod cifar;
mod dataset;
mod demo;
mod division;
mod error;
mod files;
mod folder;
mod idx;
mod motif;
mod npy;
mod source;

pub use super::image_set::ImageSet;
pub use dataset::{Dataset, Labels};
pub use error::DataError;
pub use source::{DataSource, ParseDataSourceError};

/// How a data set is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Determines which images are held out where the files have no division of their own, and
    /// nothing else. The demo set is the same for every seed.
    pub seed: u64,
    /// Leaves out image files of a folder that cannot be read or decoded, and counts them, instead
    /// of failing.
    pub skip_unreadable: bool,
}

/// Reads the data set that `source` names, or draws the demo set.
///
/// Labels that are all equal are dropped with a note.
///
/// # Errors
/// [`DataError`]; [`DataError::is_io`] tells a failing disk or missing permission from input that
/// is not what it should be.
pub fn load(source: &DataSource, options: LoadOptions) -> Result<Dataset, DataError> {
    let mut dataset = match source {
        DataSource::Demo => Ok(demo::generate()),
        DataSource::Folder(directory) => {
            folder::load(directory, options.seed, options.skip_unreadable)
        }
        DataSource::Idx(directory) => idx::load(directory),
        DataSource::Cifar10(directory) => cifar::load(directory, &cifar::CIFAR10),
        DataSource::Cifar100(directory) => cifar::load(directory, &cifar::CIFAR100),
        DataSource::Cifar100Coarse(directory) => cifar::load(directory, &cifar::CIFAR100_COARSE),
        DataSource::Npy { images, labels } => npy::load(images, labels.as_deref(), options.seed),
    }?;
    if let Some(labels) = &dataset.labels
        && let Some(&first) = labels.train.first()
        && labels
            .train
            .iter()
            .chain(&labels.test)
            .all(|&label| label == first)
    {
        dataset.notes.push(format!(
            "all images are of one class, {:?}, so that labels tell nothing apart",
            labels.class_names[first as usize]
        ));
        dataset.labels = None;
    }
    Ok(dataset)
}

#[cfg(test)]
mod tests;
