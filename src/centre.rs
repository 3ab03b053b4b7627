//! DINO's centre: a moving average of the teacher's scores.

use crate::contrast::{Contrast, same_rows};
use crate::element::Element;
use crate::engine::{Engine, RowsOf};
use crate::error::{Error, positive};
use crate::gradients::Gradients;
use crate::inputs::Inputs;
use crate::losses::RowRule;
use crate::memory::{Evaluation, Memory, Read};
use crate::positives::Positives;
use crate::rows::Matrix;

/// The centre of DINO's targets (Caron et al. 2021, equation 4): c_j ← m·c_j + (1 − m)·mean_i ⟨u_i, p_j⟩ over the teacher's
/// rows of a batch. It is subtracted from the teacher's scores before their softmax: [`bias`](Self::bias) is what
/// [`Problem::with_target_bias`](crate::Problem::with_target_bias) takes. Without it one prototype takes all.
///
/// ```
/// use infonce::{Centre, CpuEngine, Rows};
/// let mut centre = Centre::new(2, 0.9)?;
/// let (u, p) = (Rows::new(&[1.0f32, 0.0, 1.0, 2.0], 2, 2)?, Rows::new(&[1.0, 0.0, 0.0, 3.0], 2, 2)?);
/// centre.update(&CpuEngine::new(), u, p)?;
/// // The means are 1 and 3.
/// assert!((centre.values()[0] - 0.1).abs() < 1e-6 && (centre.values()[1] - 0.3).abs() < 1e-6);
/// assert!((centre.bias(0.04)?[0] + 2.5).abs() < 1e-5);
/// # Ok::<(), infonce::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Centre {
    momentum: f32,
    values: Vec<f32>,
}

impl Centre {
    /// A centre of zeros for M prototypes. The paper's m is 0.9.
    ///
    /// # Errors
    /// [`Error::Empty`] without a prototype, [`Error::Scalar`] unless 0 ≤ m ≤ 1.
    pub fn new(prototypes: usize, momentum: f32) -> Result<Self, Error> {
        Self::restore(vec![0.0; prototypes], momentum)
    }

    /// The centre whose [`values`](Self::values) were saved, bit for bit.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::Element`] for a value that is not finite.
    pub fn restore(values: Vec<f32>, momentum: f32) -> Result<Self, Error> {
        crate::momentum::check(momentum)?;
        if values.is_empty() {
            return Err(Error::Empty {
                argument: "values",
                rows: 0,
                dim: 1,
            });
        }
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(Self { momentum, values }),
            Some(index) => Err(Error::Element {
                argument: "values",
                index,
                given: values[index],
                allowed: "finite",
            }),
        }
    }

    /// c, M elements, in units of ⟨u, p⟩.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// −c/τ_t, M elements: the bias of targets at this temperature.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless the temperature is finite and greater than 0.
    pub fn bias(&self, target_temperature: f32) -> Result<Vec<f32>, Error> {
        let temperature = positive("target_temperature", target_temperature)?;
        Ok(self.values.iter().map(|c| -c / temperature).collect())
    }

    /// Moves the centre towards the mean scores of u, B × D, with prototypes p, M × D, in O((B + M)·D): the mean of scores is
    /// the score of the mean, which is rounded to `T`. Waits for the engine.
    ///
    /// # Errors
    /// [`Error::Rows`] unless there are M prototypes, [`Error::Dimension`] when D differs, [`Error::NotFinite`] where a
    /// score is not finite; the centre is as before then.
    pub fn update<E: Engine, T: Element>(
        &mut self,
        engine: &E,
        u: RowsOf<'_, E, T>,
        p: RowsOf<'_, E, T>,
    ) -> Result<(), Error> {
        same_rows("p", p.rows(), self.values.len())?;
        crate::contrast::same_dim("p", p.dim(), u.dim())?;
        let (memory, dim) = (engine.memory(), u.dim());
        // 2 − 2⟨u_i, k⟩ for one candidate k: −½ of its gradient is the mean of u. It does not depend on k.
        let alignment = Contrast::info_nce(1.0)?.with_rule(RowRule::Alignment)?;
        let zeros = |rows: usize| memory.upload(&vec![T::from_f32(0.0); rows * dim]);
        let first = |rows: usize| memory.upload(&vec![0u32; rows]);
        let (anywhere, mut mean, mut unused) = (zeros(1)?, zeros(1)?, zeros(u.rows())?);
        let positives = first(u.rows())?;
        let inputs = Inputs::Pair {
            q: E::Memory::shorten(u),
            k: memory.rows(&anywhere, 1, dim)?,
            positives: Positives::Index(memory.vector(&positives)?),
        };
        let gradients = Gradients::new(
            memory.rows_mut(&mut unused, u.rows(), dim)?,
            Some(memory.rows_mut(&mut mean, 1, dim)?),
        );
        engine.value_and_grad(&alignment.on(inputs)?, -0.5, gradients)?;
        // z₊ of each prototype with the mean as its positive.
        let positives = first(p.rows())?;
        let inputs = Inputs::Pair {
            q: E::Memory::shorten(p),
            k: memory.rows(&mean, 1, dim)?,
            positives: Positives::Index(memory.vector(&positives)?),
        };
        let scores = engine
            .forward(&alignment.on(inputs)?)?
            .statistics()
            .read()?;
        let scores = scores.rows.positive;
        if let Some(row) = scores.iter().position(|score| !score.is_finite()) {
            let argument = "p";
            return Err(Error::NotFinite { argument, row });
        }
        for (c, score) in self.values.iter_mut().zip(scores) {
            *c = self.momentum * *c + (1.0 - self.momentum) * score;
        }
        Ok(())
    }
}
