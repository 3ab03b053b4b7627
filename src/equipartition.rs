//! Equal shares of a batch for every prototype: Sinkhorn's iteration without its matrix.

use crate::contrast::Contrast;
use crate::element::Element;
use crate::engine::{Engine, RowsOf};
use crate::error::{Error, within};
use crate::inputs::Inputs;
use crate::memory::{Evaluation, Memory, Read};
use crate::positives::Positives;
use crate::rows::Matrix;

/// SwAV's equipartition (Caron et al. 2020, equations 3 to 5; Cuturi 2013): the assignment t of N rows to M prototypes that
/// is nearest to softmax(⟨u_i, p_j⟩/ε) among those that give each prototype N/M rows.
///
/// Sinkhorn's iteration alternates
/// ```text
/// g_j = −log Σ_i exp(S_ij + f_i) − ln M        f_i = −log Σ_j exp(S_ij + g_j) − ln N,        S = U·Pᵀ/ε
/// ```
/// from f = 0. Each sum is the statistics pass of a contrast with a bias, so no N×M matrix is stored: 2NMD FLOPs a sum. The
/// assignment is t_ij = softmax_j(S_ij + g_j), the targets of [`Contrast::swav`] with the
/// [target bias](crate::Problem::with_target_bias) g; the published code's t equals it.
///
/// ```
/// use infonce::{Contrast, CpuEngine, Engine, Equipartition, Inputs, Rows};
/// let engine = CpuEngine::new();
/// // Two views of three images, and two prototypes; two images are near the first.
/// let q = [1.0f32, 0.0, 0.8, 0.6, 0.0, 1.0];
/// let u = [0.96f32, 0.28, 1.0, 0.0, 0.28, 0.96];
/// let (q, u) = (Rows::new(&q, 3, 2)?, Rows::new(&u, 3, 2)?);
/// let prototypes = [1.0f32, 0.0, 0.0, 1.0];
/// let p = Rows::new(&prototypes, 2, 2)?;
/// let g = Equipartition::default().offsets(&engine, u, p)?;
/// // The crowded prototype becomes less likely.
/// assert!(g[0] < g[1]);
/// let inputs = Inputs::Targets { q, k: p, target_q: u, target_k: p };
/// let problem = Contrast::swav(0.1, 0.05)?.on(inputs)?.with_target_bias(&g)?;
/// assert!(engine.forward(&problem)?.loss > 0.0);
/// # Ok::<(), infonce::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Equipartition {
    /// ε, the temperature of the targets; 0.05 by default, as in the paper.
    pub epsilon: f32,
    /// Iterations; 3 by default, as in the paper.
    pub iterations: usize,
}

impl Default for Equipartition {
    fn default() -> Self {
        Self {
            epsilon: 0.05,
            iterations: 3,
        }
    }
}

impl Equipartition {
    /// g, M offsets in host memory, of rows u, N × D, and prototypes p, M × D. N may be more than a batch: SwAV adds a queue
    /// of earlier features. Waits for the engine.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless ε is finite and greater than 0 and there is an iteration; [`Error::Dimension`] when D
    /// differs; [`Error::NotFinite`] where a row is not finite.
    pub fn offsets<E: Engine, T: Element>(
        &self,
        engine: &E,
        u: RowsOf<'_, E, T>,
        p: RowsOf<'_, E, T>,
    ) -> Result<Vec<f32>, Error> {
        let iterations = self.iterations as f32;
        within("iterations", iterations, "at least 1", self.iterations > 0)?;
        let contrast = match Contrast::info_nce(self.epsilon) {
            Err(Error::Scalar { given, allowed, .. }) => {
                let argument = "epsilon";
                return Err(Error::Scalar {
                    argument,
                    given,
                    allowed,
                });
            }
            contrast => contrast?,
        };
        let memory = engine.memory();
        // −log Σ_j exp(S_ij + bias_j) − ln rows of each row.
        let offsets = |argument, rows: RowsOf<'_, E, T>, others: RowsOf<'_, E, T>, bias: &[f32]| {
            let bias = memory.upload(bias)?;
            let inputs = Inputs::Pair {
                q: E::Memory::shorten(rows),
                k: E::Memory::shorten(others),
                positives: Positives::NONE,
            };
            let problem = contrast.on(inputs)?;
            let problem = problem.with_column_bias(memory.vector(&bias)?)?;
            let statistics = engine.forward(&problem)?.statistics().read()?;
            let count = rows.rows() as f32;
            let of_row = |lse: &f32| -lse - count.ln();
            let found: Vec<f32> = statistics.rows.negatives_lse.iter().map(of_row).collect();
            match found.iter().position(|offset| !offset.is_finite()) {
                None => Ok(found),
                Some(row) => Err(Error::NotFinite { argument, row }),
            }
        };
        let mut g = offsets("p", p, u, &vec![0.0; u.rows()])?;
        for _ in 1..self.iterations {
            let f = offsets("u", u, p, &g)?;
            g = offsets("p", p, u, &f)?;
        }
        Ok(g)
    }
}
