//! Alignment, uniformity and the standard deviation of unit rows.

use super::unit;
use crate::contrast::{Contrast, same_dim, same_rows};
use crate::element::Element;
use crate::engine::{Engine, RowsOf};
use crate::error::Error;
use crate::inputs::Inputs;
use crate::losses::Description;
use crate::memory::{Evaluation, Memory, Read};
use crate::positives::Positives;
use crate::rows::{Matrix, Rows};

/// Alignment (Wang and Isola 2020, section 4.1, α = 2): mean_i ‖x_i − y_i‖² of two views of the same N images, N × D each.
/// Rows are normalised first; a row of zeros stays. From 0, both views of each image agree, to 4; 2 is orthogonal.
///
/// ```
/// use infonce::{Rows, diagnostics};
/// let (x, y) = ([1.0f32, 0.0, 0.0, 2.0], [3.0f32, 0.0, -1.0, 0.0]);
/// // Squared distances 0 and 2.
/// assert_eq!(diagnostics::alignment(Rows::new(&x, 2, 2)?, Rows::new(&y, 2, 2)?)?, 1.0);
/// # Ok::<(), infonce::Error>(())
/// ```
///
/// # Errors
/// [`Error::Rows`] or [`Error::Dimension`] when shapes differ, [`Error::NotFinite`] for a row with NaN or infinity.
pub fn alignment<T: Element>(x: Rows<'_, T>, y: Rows<'_, T>) -> Result<f64, Error> {
    same_rows("y", y.rows(), x.rows())?;
    same_dim("y", y.dim(), x.dim())?;
    let (of_x, of_y) = (unit("x", x)?, unit("y", y)?);
    let squares = of_x.iter().zip(of_y).map(|(x, y)| (x - y).powi(2));
    Ok(squares.sum::<f64>() / x.rows() as f64)
}

/// Uniformity (Wang and Isola 2020, section 4.1, t = 2) of N rows in the engine's memory, N × D:
/// ```text
/// ln mean_{i≠j} e^{−2‖x_i − x_j‖²} = ln mean_i e^{lse_i − 4}/(N − 1),  lse_i = ln Σ_{j≠i} e^{4⟨x_i, x_j⟩}
/// ```
/// The engine normalises rows to f32 and computes lse_i, the row statistics at s = 4, in 2N²D FLOPs, half of them where it
/// uses the symmetry. 0 is one point, −4 approximately a uniform distribution on the sphere of a large D, −8 the least (two
/// opposite points). A row of zeros stays at the origin. The error is that of lse_i in f32: below 10⁻⁵.
///
/// ```
/// use infonce::{CpuEngine, Rows, diagnostics};
/// // Two orthogonal rows: squared distance 2.
/// let x = [3.0f32, 0.0, 0.0, 1.0];
/// let found = diagnostics::uniformity(&CpuEngine::new(), Rows::new(&x, 2, 2)?)?;
/// assert!((found + 4.0).abs() < 1e-5);
/// # Ok::<(), infonce::Error>(())
/// ```
///
/// # Errors
/// [`Error::Scalar`] unless there are two rows, [`Error::NotFinite`] for a row with NaN or infinity or too long for f32,
/// and those of the engine.
pub fn uniformity<E: Engine, T: Element>(engine: &E, x: RowsOf<'_, E, T>) -> Result<f64, Error> {
    let (rows, dim) = (x.rows(), x.dim());
    if rows < 2 {
        return Err(Error::Scalar {
            argument: "rows of x",
            given: rows as f64,
            allowed: "at least 2",
        });
    }
    let memory = engine.memory();
    let mut unit = memory.upload(&vec![0.0f32; rows * dim])?;
    let mut norms = memory.upload(&vec![0.0f32; rows])?;
    let to = memory.rows_mut(&mut unit, rows, dim)?;
    engine.normalize(x, to, memory.vector_mut(&mut norms)?, f32::MIN_POSITIVE)?;
    let norms = memory.download(&norms)?;
    if let Some(row) = norms.iter().position(|norm| !norm.is_finite()) {
        return Err(Error::NotFinite { argument: "x", row });
    }
    // Every row against all others; without positives lse⁻ is over all of them.
    let inputs = Inputs::Labelled {
        z: memory.rows(&unit, rows, dim)?,
        positives: Positives::NONE,
    };
    let problem = Contrast::new("uniformity", Description::LABELLED, 4.0)?.on(inputs)?;
    let statistics = engine.forward(&problem)?.into_statistics().read()?;
    let lse = statistics.rows.negatives_lse.iter();
    let sum: f64 = lse.map(|&lse| (f64::from(lse) - 4.0).exp()).sum();
    // A row of zeros is at squared distance 1 of unit rows and 0 of its like, where 4⟨x_i, x_j⟩ − 4 supposes 2.
    let zeros = norms.iter().filter(|&&norm| norm == 0.0).count() as f64;
    let n = rows as f64;
    let term = |squared_distance: f64| (-2.0 * squared_distance).exp();
    let correction = zeros * (zeros - 1.0) * (term(0.0) - term(2.0))
        + 2.0 * zeros * (n - zeros) * (term(1.0) - term(2.0));
    Ok(((sum + correction) / (n * (n - 1.0))).ln())
}

/// Standard deviation of each coordinate of N unit rows, N × D, averaged, times √D (Chen and He 2021, SimSiam, section 4.1,
/// figure 2). 1 is a spread as that of the uniform distribution on the sphere, 0 is one point. The divisor is N. Rows are
/// normalised first; a row of zeros stays. Rows that vary in few coordinates have a small deviation too; [`Collapse`]
/// distinguishes them from rows near one point.
///
/// ```
/// use infonce::{Rows, diagnostics};
/// let x = [1.0f32, 0.0, -1.0, 0.0, 0.0, 1.0, 0.0, -1.0];
/// let found = diagnostics::deviation(Rows::new(&x, 4, 2)?)?;
/// assert!((found - 1.0).abs() < 1e-12);
/// # Ok::<(), infonce::Error>(())
/// ```
///
/// # Errors
/// [`Error::NotFinite`] for a row with NaN or infinity.
///
/// [`Collapse`]: super::Collapse
pub fn deviation<T: Element>(x: Rows<'_, T>) -> Result<f64, Error> {
    let mut rows = unit("x", x)?;
    centre(&mut rows, x.dim());
    Ok(deviation_of_centred(&rows, x.dim()))
}

/// Subtracts the mean row from every row.
pub(super) fn centre(rows: &mut [f64], dim: usize) {
    let mut mean = vec![0.0; dim];
    let add = |row: &[f64]| mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    rows.chunks(dim).for_each(add);
    let count = (rows.len() / dim) as f64;
    for row in rows.chunks_mut(dim) {
        row.iter_mut()
            .zip(&mean)
            .for_each(|(x, sum)| *x -= sum / count);
    }
}

/// [`deviation`] of rows less their mean.
pub(super) fn deviation_of_centred(rows: &[f64], dim: usize) -> f64 {
    let mut squares = vec![0.0; dim];
    let add = |row: &[f64]| {
        squares
            .iter_mut()
            .zip(row)
            .for_each(|(sum, x)| *sum += x * x)
    };
    rows.chunks(dim).for_each(add);
    let count = (rows.len() / dim) as f64;
    let deviations = squares.iter().map(|sum| (sum / count).sqrt());
    deviations.sum::<f64>() / (dim as f64).sqrt()
}
