//! Noise-contrastive estimation from log-likelihoods (Dai and Lin 2017, "Contrastive Learning for Image Captioning").

use crate::contrast::same_length;
use crate::error::Error;

/// The sigmoid loss of contrastive captioning (Dai and Lin 2017, section 3), of log-likelihoods that a model and a
/// frozen reference give to captions: with G = model − reference, T₊ captions that match their image, T₋ that do not, and
/// ν = T₋/T₊,
/// ```text
/// loss = −(Σ_matching ln σ(G − ln ν) + Σ_others ln σ(ln ν − G)) / T₊
/// ```
/// There is no matrix: O(T), sums in f64. Returns the loss and writes ∂loss/∂model into `gradient`, T elements; the reference
/// has no gradient.
///
/// ```
/// let mut gradient = [0.0; 2];
/// let loss = infonce::losses::captioning(&[-3.0, -8.0], &[-4.0, -7.0], &[true, false], &mut gradient)?;
/// // G = 1 and −1, ν = 1: both terms are ln(1 + 1/e).
/// assert!((loss - 2.0 * (-1f32).exp().ln_1p()).abs() < 1e-6);
/// assert!((gradient[0] + 0.268941).abs() < 1e-6 && (gradient[1] - 0.268941).abs() < 1e-6);
/// # Ok::<(), infonce::Error>(())
/// ```
///
/// # Errors
/// [`Error::Length`] unless all have as many elements; [`Error::Empty`] without a matching or without another caption;
/// [`Error::Element`] for a log-likelihood that is not finite. Nothing is written then.
pub fn captioning(
    model: &[f32],
    reference: &[f32],
    matches: &[bool],
    gradient: &mut [f32],
) -> Result<f32, Error> {
    same_length("reference", reference.len(), model.len())?;
    same_length("matches", matches.len(), model.len())?;
    same_length("gradient", gradient.len(), model.len())?;
    for (argument, given) in [("model", model), ("reference", reference)] {
        if let Some(index) = given.iter().position(|x| !x.is_finite()) {
            return Err(Error::Element {
                argument,
                index,
                given: given[index],
                allowed: "finite",
            });
        }
    }
    let matching = matches.iter().filter(|&&matches| matches).count();
    let others = matches.len() - matching;
    if matching == 0 || others == 0 {
        return Err(Error::Empty {
            argument: "matches",
            rows: matching.min(others),
            dim: 1,
        });
    }
    let (share, log_ratio) = (
        1.0 / matching as f64,
        (others as f64 / matching as f64).ln(),
    );
    let mut loss = 0.0;
    for (place, to) in gradient.iter_mut().enumerate() {
        let x = f64::from(model[place]) - f64::from(reference[place]) - log_ratio;
        let sign = if matches[place] { -1.0 } else { 1.0 };
        // softplus(sign·x) and its derivative.
        let y = sign * x;
        loss += y.max(0.0) + (-y.abs()).exp().ln_1p();
        *to = (share * sign / (1.0 + (-y).exp())) as f32;
    }
    Ok((share * loss) as f32)
}
