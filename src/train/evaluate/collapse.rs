//! Collapse checks: do embeddings of two views agree, and do embeddings of different images
//! differ?
//!
//! Alignment and uniformity are those of Wang & Isola 2020 (section 4), with α = 2 and t = 2:
//! ```text
//! alignment  = E_{(x,x⁺)} ‖f(x) − f(x⁺)‖²             0 when both views of an image agree
//! uniformity = log E_{x≠y} exp(−2‖f(x) − f(y)‖²)      0 at one point, about −4 when spread evenly
//! ```
//! The embedding standard deviation is that of Chen & He 2021 (SimSiam, section 4.1): the standard
//! deviation of each coordinate of unit-length embeddings, averaged, times √D: 1 for embeddings
//! spread evenly over the sphere, 0 when all are one point.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Matrix, Rows};

/// Below this the embeddings have collapsed to (nearly) one point.
pub const COLLAPSED_DEVIATION: f64 = 0.1;
/// Below this a part of the space is unused.
pub const NARROW_DEVIATION: f64 = 0.5;

/// What the checks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Embeddings use the sphere.
    Spread,
    /// Embeddings crowd into a part of the sphere.
    Narrow,
    /// Embeddings are nearly one point.
    Collapsed,
    /// Some embedding is not a finite number.
    NotFinite,
    /// A single image, which tells nothing about different ones.
    Unknown,
}

impl Verdict {
    /// One sentence for reports.
    pub fn sentence(self) -> &'static str {
        match self {
            Verdict::Spread => "no collapse: embeddings of different images spread over the sphere",
            Verdict::Narrow => "partial collapse: embeddings crowd into a part of the sphere",
            Verdict::Collapsed => "collapsed: embeddings of different images are nearly one point",
            Verdict::NotFinite => "broken: embeddings hold values that are not finite",
            Verdict::Unknown => "collapse unknown: a single held-out image has none to differ from",
        }
    }
}

/// The three numbers and what follows from them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CollapseChecks {
    /// Mean squared distance between the embeddings of two views, between 0 and 4.
    pub alignment: f64,
    /// Log of the mean Gaussian potential of pairs of images, at most 0; lower is more spread.
    pub uniformity: f64,
    /// Standard deviation per coordinate times √D, between 0 and 1.
    pub deviation: f64,
    /// Images that the three are computed on.
    pub images: usize,
    /// What follows.
    pub verdict: Verdict,
}

impl CollapseChecks {
    /// Computes the checks from unit-length embeddings of two views of the same images, N × D each.
    ///
    /// # Errors
    /// [`crate::Error`] when the two shapes differ.
    pub fn of(first: Rows<'_, f32>, second: Rows<'_, f32>) -> Result<Self, crate::Error> {
        crate::contrast::same_rows("second", second.rows(), first.rows())?;
        crate::contrast::same_dim("second", second.dim(), first.dim())?;
        let (alignment, uniformity) = (alignment(first, second), uniformity(first));
        let deviation = deviation(first);
        let verdict = if !(alignment.is_finite() && uniformity.is_finite() && deviation.is_finite())
        {
            Verdict::NotFinite
        } else if first.rows() < 2 {
            Verdict::Unknown
        } else if deviation < COLLAPSED_DEVIATION {
            Verdict::Collapsed
        } else if deviation < NARROW_DEVIATION {
            Verdict::Narrow
        } else {
            Verdict::Spread
        };
        Ok(Self {
            alignment,
            uniformity,
            deviation,
            images: first.rows(),
            verdict,
        })
    }
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

/// E ‖f(x) − f(x⁺)‖² over rows of the same index.
fn alignment(first: Rows<'_, f32>, second: Rows<'_, f32>) -> f64 {
    let total: f64 = (0..first.rows())
        .map(|i| squared_distance(first.row(i), second.row(i)))
        .sum();
    total / first.rows() as f64
}

/// log E exp(−2‖f(x) − f(y)‖²) over pairs of different rows; 0 for a single row.
fn uniformity(embeddings: Rows<'_, f32>) -> f64 {
    let rows = embeddings.rows();
    if rows < 2 {
        return 0.0;
    }
    // Collected before they are added, so that the order of the sum is that of the rows.
    let per_row: Vec<f64> = (1..rows)
        .into_par_iter()
        .map(|i| {
            (0..i)
                .map(|j| (-2.0 * squared_distance(embeddings.row(i), embeddings.row(j))).exp())
                .sum()
        })
        .collect();
    let pairs = (rows * (rows - 1) / 2) as f64;
    (per_row.iter().sum::<f64>() / pairs).ln()
}

/// √D · mean over coordinates of the standard deviation over rows.
fn deviation(embeddings: Rows<'_, f32>) -> f64 {
    let (rows, dim) = (embeddings.rows() as f64, embeddings.dim());
    let total: f64 = (0..dim)
        .map(|coordinate| {
            let column =
                || (0..embeddings.rows()).map(|i| f64::from(embeddings.row(i)[coordinate]));
            let mean = column().sum::<f64>() / rows;
            (column().map(|value| (value - mean).powi(2)).sum::<f64>() / rows).sqrt()
        })
        .sum();
    total / (dim as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;

    fn checks(first: &[f32], second: &[f32], dim: usize) -> CollapseChecks {
        let rows = first.len() / dim;
        CollapseChecks::of(
            Rows::new(first, rows, dim).unwrap(),
            Rows::new(second, rows, dim).unwrap(),
        )
        .unwrap()
    }

    #[test]
    fn two_opposite_points_have_the_closed_form() {
        // One pair at distance 2: log exp(−2·4) = −8; deviation (1 + 0)/√2.
        let found = checks(&[1.0, 0.0, -1.0, 0.0], &[1.0, 0.0, 0.0, 1.0], 2);
        assert_abs_diff_eq!(found.uniformity, -8.0, epsilon = 1e-12);
        // Distances 0 and √2.
        assert_abs_diff_eq!(found.alignment, 1.0, epsilon = 1e-12);
        assert_abs_diff_eq!(found.deviation, 0.5f64.sqrt(), epsilon = 1e-12);
    }

    #[test]
    fn orthonormal_points_have_the_closed_form() {
        // All six pairs at squared distance 2; each coordinate has mean 1/4 and variance 3/16.
        let mut identity = [0.0f32; 16];
        (0..4).for_each(|i| identity[5 * i] = 1.0);
        let found = checks(&identity, &identity, 4);
        assert_eq!(found.alignment, 0.0);
        assert_abs_diff_eq!(found.uniformity, -4.0, epsilon = 1e-12);
        let deviation = 2.0 * (3.0f64 / 16.0).sqrt();
        assert_abs_diff_eq!(found.deviation, deviation, epsilon = 1e-12);
        assert_eq!(found.verdict, Verdict::Spread);
    }

    #[test]
    fn one_point_is_called_collapsed() {
        let found = checks(
            &[0.6, 0.8, 0.6, 0.8, 0.6, 0.8],
            &[0.6, 0.8, 0.6, 0.8, 0.6, 0.8],
            2,
        );
        assert_eq!(
            (found.alignment, found.uniformity, found.deviation),
            (0.0, 0.0, 0.0)
        );
        assert_eq!(found.verdict, Verdict::Collapsed);
    }

    #[test]
    fn a_single_image_is_not_called_collapsed() {
        let found = checks(&[0.6, 0.8], &[0.8, 0.6], 2);
        assert_eq!(found.verdict, Verdict::Unknown);
    }

    #[test]
    fn nan_is_called_broken() {
        let found = checks(&[f32::NAN, 0.0, 1.0, 0.0], &[1.0, 0.0, 1.0, 0.0], 2);
        assert_eq!(found.verdict, Verdict::NotFinite);
    }

    #[test]
    fn views_of_different_images_are_refused() {
        let (four, two) = ([1.0f32; 4], [1.0f32; 2]);
        let first = Rows::new(&four, 2, 2).unwrap();
        assert!(CollapseChecks::of(first, Rows::new(&two, 1, 2).unwrap()).is_err());
    }
}
