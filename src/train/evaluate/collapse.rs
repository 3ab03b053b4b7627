//! Collapse checks: whether embeddings of two views of an image agree, and whether those of different images differ.

use serde::{Deserialize, Serialize};

use crate::diagnostics::{Collapse, Verdict, alignment, uniformity};
use crate::{CpuEngine, Error, Matrix, Rows};

/// The [diagnostics](crate::diagnostics) of held-out images, and the verdict on them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CollapseChecks {
    /// [`alignment`] of two views.
    pub alignment: f64,
    /// [`uniformity`] of the first views; 0 for a single image.
    pub uniformity: f64,
    /// [`Collapse::deviation`].
    pub deviation: f64,
    /// [`Collapse::effective_rank`].
    pub effective_rank: f64,
    /// [`Collapse::full_rank`], the most that `effective_rank` can be.
    pub full_rank: usize,
    /// Images that the checks are computed on.
    pub images: usize,
    /// The verdict on them.
    pub verdict: Verdict,
}

impl CollapseChecks {
    /// Computes the checks from embeddings of two views of the same images, N × D each. Where some are not finite, neither
    /// are the checks.
    ///
    /// # Errors
    /// [`crate::Error`] when the two shapes differ.
    pub fn of(
        engine: &CpuEngine,
        first: Rows<'_, f32>,
        second: Rows<'_, f32>,
    ) -> Result<Self, Error> {
        let images = first.rows();
        let finite = || {
            let alignment = alignment(first, second)?;
            let uniformity = match images {
                1 => 0.0,
                _ => uniformity(engine, first)?,
            };
            Ok((alignment, uniformity, Collapse::of(first)?))
        };
        let (alignment, uniformity, collapse) = match finite() {
            Err(Error::NotFinite { .. }) => (f64::NAN, f64::NAN, Collapse::NOT_FINITE),
            found => found?,
        };
        Ok(Self {
            alignment,
            uniformity,
            deviation: collapse.deviation,
            effective_rank: collapse.effective_rank,
            full_rank: collapse.full_rank,
            images,
            verdict: collapse.verdict,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(embeddings: &[f32]) -> Verdict {
        let rows = Rows::new(embeddings, embeddings.len() / 2, 2).unwrap();
        let checks = CollapseChecks::of(&CpuEngine::new(), rows, rows).unwrap();
        assert!(checks.alignment == 0.0 || checks.alignment.is_nan());
        checks.verdict
    }

    #[test]
    fn every_embedding_has_a_verdict() {
        let spread = [1.0f32, 0.0, -1.0, 0.0, 0.0, 1.0];
        assert_eq!(verdict(&spread), Verdict::Spread);
        assert_eq!(verdict(&[0.0; 6]), Verdict::Collapsed);
        assert_eq!(verdict(&[0.6, 0.8]), Verdict::Unknown);
        assert_eq!(verdict(&[f32::NAN, 0.0, 1.0, 0.0]), Verdict::NotFinite);
    }

    #[test]
    fn views_of_different_images_are_refused() {
        let (four, two) = ([1.0f32; 4], [1.0f32; 2]);
        let first = Rows::new(&four, 2, 2).unwrap();
        let second = Rows::new(&two, 1, 2).unwrap();
        assert!(CollapseChecks::of(&CpuEngine::new(), first, second).is_err());
    }
}
