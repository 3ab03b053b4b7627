//! The mean entropy of the rows' softmax, from the loss and its derivative by the scale.

use crate::contrast::same_rows;
use crate::error::{Error, within};
use crate::losses::RowRule;
use crate::memory::{Evaluation, Read};
use crate::problem::Problem;
use crate::rows::View;
use crate::statistics::{GIVEN, Statistics};

/// Mean entropy −Σ_j p_ij ln p_ij, in nats, of the softmax p_i over positive and negatives of the rows with a positive,
/// from a step's `evaluation` with gradients; no further pass. e^entropy is the number of candidates that a row attends
/// to, as many as there are where τ is too large. Where columns have a loss, the mean is over rows and columns.
///
/// With z_ij = s·⟨q_i, k_j⟩ the softmax's loss is φ_i = ln Σ_j e^{z_ij} − z₊, so that s·∂φ_i/∂s = Σ_j p_ij z_ij − z₊ and
/// ```text
/// H_i = ln Σ_j e^{z_ij} − Σ_j p_ij z_ij = φ_i − s·∂φ_i/∂s
/// ```
/// The reduction and the loss's factor (2τ of MoCo v3) are divided out. Candidates that ids or a guard exclude are not in
/// the softmax. `upstream` is that of the call. A `forward` has no ∂loss/∂s (its 0 gives the mean loss instead of the
/// entropy). The error is that of loss and s·∂loss/∂s, absolute: rounding of terms as large as
/// s·‖q_i‖·‖k_j‖.
///
/// ```
/// use infonce::{Contrast, CpuEngine, Engine, Gradients, Inputs, Rows, RowsMut, diagnostics};
/// // Four equal rows: a uniform softmax over three candidates.
/// let (z, mut dz) = ([1.0f32; 8], [0.0f32; 8]);
/// let problem = Contrast::nt_xent(0.5)?.on(Inputs::Shared { z: Rows::new(&z, 4, 2)? })?;
/// let gradients = Gradients::new(RowsMut::new(&mut dz, 4, 2)?, None);
/// let step = CpuEngine::new().value_and_grad(&problem, 1.0, gradients)?;
/// let entropy = diagnostics::mean_entropy(&problem, &step, 1.0)?;
/// assert!((entropy - 3f64.ln()).abs() < 1e-5);
/// # Ok::<(), infonce::Error>(())
/// ```
///
/// # Errors
/// [`Error::Unsupported`] where the identity does not hold or its terms cannot be read: for another `rule` than a softmax
/// without margin, a `column_bias`, `row_weights`, a `scale` in memory, or where no row has a positive; [`Error::Scalar`]
/// unless `upstream` is finite and not 0 and loss and ∂loss/∂s are finite; [`Error::Rows`] for an evaluation of another
/// number of rows.
pub fn mean_entropy<V: View, E>(
    problem: &Problem<V>,
    evaluation: &E,
    upstream: f32,
) -> Result<f64, Error>
where
    E: Evaluation<Statistics: Read<Value = Statistics>>,
{
    let refuse = |option, reason| Err(Error::Unsupported { option, reason });
    let contrast = problem.contrast();
    if contrast.rule() != RowRule::SOFTMAX {
        return refuse("rule", "it is no softmax of one positive without margin");
    }
    if problem.column_bias().is_some() {
        return refuse("column_bias", "logits are not proportional to the scale");
    }
    if problem.row_weights().is_some() {
        return refuse("row_weights", "loss and entropy are means of all rows");
    }
    if problem.scale().is_some() {
        return refuse("scale", "the host cannot read it");
    }
    let legal = upstream.is_finite() && upstream != 0.0;
    within("upstream", upstream, "finite and not 0", legal)?;
    let finite = |argument, x: f32| within(argument, x, "finite", x.is_finite()).map(f64::from);
    let loss = finite("evaluation.loss", evaluation.loss()?)?;
    let dscale = finite("evaluation.dscale", evaluation.dscale()?)?;
    let rows = evaluation.statistics().read()?.rows;
    let anchors = problem.shape().anchors;
    same_rows(GIVEN[0], rows.len(), anchors)?;
    let with_positive = rows.positive.iter().filter(|&&z| z != f32::NEG_INFINITY);
    let directions = if contrast.has_columns() { 2.0 } else { 1.0 };
    let terms = directions * with_positive.count() as f64;
    if terms == 0.0 {
        return refuse("positives", "no anchor has one");
    }
    let weight = contrast.row_weight(anchors) * rows.counted(contrast, None);
    let slope = f64::from(contrast.scale()) * dscale / f64::from(upstream);
    Ok((loss - slope) / (weight * terms))
}
