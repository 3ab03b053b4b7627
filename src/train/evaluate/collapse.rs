//! Collapse checks: whether embeddings of two views of an image agree, and whether those of
//! different images differ.
//!
//! Alignment and uniformity are those of Wang & Isola 2020 (section 4), with α = 2 and t = 2:
//! ```text
//! alignment  = E_{(x,x⁺)} ‖f(x) − f(x⁺)‖²             0 when both views of an image agree
//! uniformity = log E_{x≠y} exp(−2‖f(x) − f(y)‖²)      0 at one point, about −4 when spread evenly
//! ```
//! The embedding standard deviation is that of Chen & He 2021 (SimSiam, section 4.1): the standard
//! deviation of each coordinate of unit-length embeddings, averaged, times √D. It is 1 for
//! embeddings spread evenly over the sphere, 0 when all are one point.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::statistics::{self, squared_distance};
use crate::{Matrix, Rows};

/// Below this the embeddings have collapsed to (nearly) one point.
pub const COLLAPSED_DEVIATION: f64 = 0.1;
/// Below this the embeddings crowd into a region of the sphere.
pub const NARROW_DEVIATION: f64 = 0.5;

/// The result of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Embeddings use the sphere.
    Spread,
    /// Embeddings crowd into a region of the sphere.
    Narrow,
    /// Embeddings are nearly one point.
    Collapsed,
    /// Some embedding is not a finite number.
    NotFinite,
    /// There is a single image, which says nothing about different ones.
    Unknown,
}

impl Verdict {
    /// One sentence for reports.
    pub fn sentence(self) -> &'static str {
        match self {
            Verdict::Spread => "no collapse: embeddings of different images spread over the sphere",
            Verdict::Narrow => "partial collapse: embeddings crowd into a region of the sphere",
            Verdict::Collapsed => "collapsed: embeddings of different images are nearly one point",
            Verdict::NotFinite => "broken: embeddings hold values that are not finite",
            Verdict::Unknown => "collapse unknown: a single held-out image has none to differ from",
        }
    }
}

/// Alignment, uniformity, deviation and the verdict on them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CollapseChecks {
    /// Mean squared distance between the embeddings of two views, between 0 and 4.
    pub alignment: f64,
    /// Log of the mean Gaussian potential of pairs of images, at most 0; lower is more spread.
    pub uniformity: f64,
    /// Standard deviation per coordinate times √D, between 0 and 1.
    pub deviation: f64,
    /// Images that the checks are computed on.
    pub images: usize,
    /// The verdict on them.
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
        let verdict = match deviation {
            _ if !(alignment + uniformity + deviation).is_finite() => Verdict::NotFinite,
            _ if first.rows() < 2 => Verdict::Unknown,
            ..COLLAPSED_DEVIATION => Verdict::Collapsed,
            ..NARROW_DEVIATION => Verdict::Narrow,
            _ => Verdict::Spread,
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

/// E ‖f(x) − f(x⁺)‖² over rows of the same index.
fn alignment(first: Rows<'_, f32>, second: Rows<'_, f32>) -> f64 {
    let distance = |i| squared_distance(first.row(i), second.row(i));
    (0..first.rows()).map(distance).sum::<f64>() / first.rows() as f64
}

/// log E exp(−2‖f(x) − f(y)‖²) over pairs of different rows; 0 for a single row.
fn uniformity(embeddings: Rows<'_, f32>) -> f64 {
    let rows = embeddings.rows();
    if rows < 2 {
        return 0.0;
    }
    // Collected before they are added, so that the order of the sum does not depend on threads.
    let potential = |i, j| (-2.0 * squared_distance(embeddings.row(i), embeddings.row(j))).exp();
    let per_row: Vec<f64> = (1..rows)
        .into_par_iter()
        .map(|i| (0..i).map(|j| potential(i, j)).sum())
        .collect();
    let pairs = (rows * (rows - 1) / 2) as f64;
    (per_row.iter().sum::<f64>() / pairs).ln()
}

/// √D · mean over coordinates of the standard deviation over rows.
fn deviation(embeddings: Rows<'_, f32>) -> f64 {
    let columns = statistics::columns(embeddings);
    let total: f64 = columns.iter().map(|column| column.deviation).sum();
    total / (columns.len() as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;

    fn checks(first: &[f32], second: &[f32], dim: usize) -> CollapseChecks {
        let [first, second] =
            [first, second].map(|data| Rows::new(data, data.len() / dim, dim).unwrap());
        CollapseChecks::of(first, second).unwrap()
    }

    #[test]
    fn points_with_a_closed_form_have_it() {
        let mut identity = [0.0f32; 16];
        (0..4).for_each(|i| identity[5 * i] = 1.0);
        let one_point = [0.6f32, 0.8, 0.6, 0.8, 0.6, 0.8];
        for (first, second, dim, expected) in [
            // Views at distances 0 and √2. One pair at distance 2: log exp(−2·4) = −8. (1 + 0)/√2.
            (
                &[1.0f32, 0.0, -1.0, 0.0] as &[f32],
                &[1.0f32, 0.0, 0.0, 1.0] as &[f32],
                2,
                [1.0, -8.0, 0.5f64.sqrt()],
            ),
            // All six pairs at squared distance 2; each coordinate has mean 1/4 and variance 3/16.
            (&identity, &identity, 4, [0.0, -4.0, 0.75f64.sqrt()]),
            (&one_point, &one_point, 2, [0.0; 3]),
        ] {
            let found = checks(first, second, dim);
            let found = [found.alignment, found.uniformity, found.deviation];
            assert_abs_diff_eq!(found[..], expected[..], epsilon = 1e-12);
        }
    }

    #[test]
    fn the_verdict_follows_from_the_deviation_where_there_is_one() {
        let rotated = |by: f32| [1.0f32, 0.0, by.cos(), by.sin()];
        for (embeddings, verdict) in [
            (&rotated(3.0) as &[f32], Verdict::Spread),
            (&rotated(0.5), Verdict::Narrow),
            (&rotated(0.01), Verdict::Collapsed),
            (&[0.6, 0.8], Verdict::Unknown),
            (&[f32::NAN, 0.0, 1.0, 0.0], Verdict::NotFinite),
        ] {
            assert_eq!(checks(embeddings, embeddings, 2).verdict, verdict);
        }
    }

    #[test]
    fn views_of_different_images_are_refused() {
        let (four, two) = ([1.0f32; 4], [1.0f32; 2]);
        let first = Rows::new(&four, 2, 2).unwrap();
        assert!(CollapseChecks::of(first, Rows::new(&two, 1, 2).unwrap()).is_err());
    }
}
