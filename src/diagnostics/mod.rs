//! Diagnostics of representations: what a loss does not say about an encoder.
//!
//! | question | answer | source |
//! |---|---|---|
//! | Are positives among an anchor's most similar candidates? | [`accuracy()`] | He et al. 2020, in the authors' code |
//! | How many candidates share a row's softmax? | [`mean_entropy`], from what a step has computed | – |
//! | Do the two views of an image agree? | [`alignment`] | Wang and Isola 2020, section 4.1 |
//! | Do embeddings cover the sphere? | [`uniformity`] | Wang and Isola 2020, section 4.1 |
//! | Do coordinates vary? | [`deviation`] | Chen and He 2021, section 4.1 |
//! | How many dimensions are in use? | [`effective_rank`] | Garrido et al. 2023, equation 1 |
//! | Has the encoder collapsed, and how? | [`Collapse`] | Jing et al. 2022, for dimensional collapse |
//! | Do feature maps hold shapes or textures? | [`low_frequency_share`] | Park et al. 2023, section 3.2 |
//!
//! [`accuracy()`] and [`uniformity`], which compare all rows with all others, run on an [`Engine`](crate::Engine) and store
//! no N×M matrix. The others read host memory and compute in f64. All results are f64.

mod accuracy;
mod collapse;
mod entropy;
mod frequency;
mod rank;
mod singular;
mod sphere;

pub use accuracy::{Accuracy, accuracy};
pub use collapse::{Collapse, Verdict};
pub use entropy::mean_entropy;
pub use frequency::low_frequency_share;
pub use rank::effective_rank;
pub use sphere::{alignment, deviation, uniformity};

use crate::element::Element;
use crate::error::Error;
use crate::rows::{Matrix, Rows};

/// The elements in f64, row after row.
fn wide<T: Element>(argument: &'static str, x: Rows<'_, T>) -> Result<Vec<f64>, Error> {
    let elements = x.contiguous();
    let elements: Vec<f64> = elements.iter().map(|x| f64::from(x.to_f32())).collect();
    let mut rows = elements.chunks(x.dim());
    match rows.position(|row| row.iter().any(|x| !x.is_finite())) {
        Some(row) => Err(Error::NotFinite { argument, row }),
        None => Ok(elements),
    }
}

/// The rows divided by their lengths, in f64; a row of zeros stays.
fn unit<T: Element>(argument: &'static str, x: Rows<'_, T>) -> Result<Vec<f64>, Error> {
    let mut elements = wide(argument, x)?;
    for row in elements.chunks_mut(x.dim()) {
        let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        if length > 0.0 {
            row.iter_mut().for_each(|x| *x /= length);
        }
    }
    Ok(elements)
}
