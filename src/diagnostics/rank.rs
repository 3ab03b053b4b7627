//! The effective rank of embeddings.

use super::singular::singular_values;
use super::wide;
use crate::element::Element;
use crate::error::Error;
use crate::rows::{Matrix, Rows};

/// ε of Garrido et al. 2023 for f32.
const EPSILON: f64 = 1e-7;

/// RankMe, the effective rank of N rows of D elements (Garrido et al. 2023, equation 1; Roy and Vetterli 2007): e to the
/// entropy of the singular values σ_k of the N × D matrix as given, neither centred nor normalised:
/// ```text
/// RankMe = exp(−Σ_k p_k ln p_k),  p_k = σ_k/Σ σ + ε,  ε = 10⁻⁷,  k = 1 … min(N, D)
/// ```
/// From 1, one direction, to min(N, D); 0 for a matrix of zeros. ε adds about 10⁻⁶ a singular value that is 0. The paper
/// uses N = 25,600 and D = 2,048.
///
/// The host computes singular values in f64, with 8·N·D bytes and, for N ≥ D, about 2ND² + 50D³ FLOPs, the latter on one
/// thread.
///
/// ```
/// use infonce::{Rows, diagnostics};
/// // Four rows in a plane of three dimensions, both directions equally strong.
/// let x = [1.0f32, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0, 0.0];
/// let found = diagnostics::effective_rank(Rows::new(&x, 4, 3)?)?;
/// assert!((found - 2.0).abs() < 1e-5);
/// # Ok::<(), infonce::Error>(())
/// ```
///
/// # Errors
/// [`Error::NotFinite`] for a row with NaN or infinity.
pub fn effective_rank<T: Element>(x: Rows<'_, T>) -> Result<f64, Error> {
    Ok(rank_of(&wide("x", x)?, x.dim()))
}

/// [`effective_rank`] of finite rows.
pub(super) fn rank_of(rows: &[f64], dim: usize) -> f64 {
    let values = singular_values(rows, dim);
    let total: f64 = values.iter().sum();
    if total == 0.0 {
        return 0.0;
    }
    let shares = values.iter().map(|value| value / total + EPSILON);
    shares.map(|p| -p * p.ln()).sum::<f64>().exp()
}
