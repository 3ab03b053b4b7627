//! The verbs of a contrast, forward, value_and_grad and backward, as sequences of launches:
//!
//! ```text
//! positives, bound     z₊ of every anchor, whether any element is not finite, a bound of all logits
//! statistics, combine  lse⁻, offsets and masses; value_and_grad of a one-way loss finds them while it computes dq
//! gradient…, finish    dq and dk
//! reduce               loss and ∂loss/∂s
//! ```
//! Gradients are fused where D fits the registers, and products of chunks of stored weights elsewhere. A problem with
//! options (`options`) always has statistics of its own, and stored weights.

use super::chunked::{Softmax, exponent_range};
use super::gradient::{Call, Finish, Known, Sums};
use super::options::Options;
use super::prepared::Prepared;
use super::results::{DeviceStatistics, Direction, Results};
use super::similarity::Similarity;
use super::statistics::Partial;
use super::{Arithmetic, Device, DeviceMatrix, Floats};
use crate::error::Error;
use crate::gradients::Gradients;
use crate::problem::Problem;

impl<D: Device> Similarity<'_, D> {
    pub(crate) fn forward(&self, problem: &Problem<DeviceMatrix>) -> Result<Results<D>, Error> {
        let arithmetic = self.forward_arithmetic(problem.matrices().anchors.dtype)?;
        let has_targets = problem.contrast().rule().target_scale().is_some();
        if arithmetic == Arithmetic::E4m3 && (has_targets || Options::of(problem).is_some()) {
            return Err(Error::Unsupported {
                option: "fp8_scores",
                reason: "problems with options are not computed in 8-bit types",
            });
        }
        let prepared = self.prepare_in(arithmetic, problem)?;
        let positives = self.positives(&prepared)?;
        let (rows, columns) = self.statistics(&prepared, positives)?;
        self.results(prepared, rows, columns, None)
    }

    /// Reduces to the loss, and to dscale from `gradient`: ⟨q_i, dq_i⟩ and upstream. Keeps the statistics.
    fn results(
        &self,
        prepared: Prepared<'_, D>,
        rows: Direction<D>,
        columns: Option<Direction<D>>,
        gradient: Option<(&Floats<D>, f32)>,
    ) -> Result<Results<D>, Error> {
        let of_columns = columns.as_ref().map(|columns| &columns.rows);
        Ok(Results {
            loss_and_dscale: self.reduce(&prepared, Some(&rows.rows), of_columns, gradient)?,
            statistics: DeviceStatistics::found(prepared, rows, columns),
        })
    }

    pub(crate) fn value_and_grad(
        &self,
        problem: &Problem<DeviceMatrix>,
        upstream: f32,
        gradients: &Gradients<DeviceMatrix>,
    ) -> Result<Results<D>, Error> {
        problem.check_gradients(gradients)?;
        let prepared = self.prepare(problem)?;
        let call = Call::new(&prepared, upstream, gradients.accumulate);
        let positives = self.positives(&prepared)?;
        let rule = problem.contrast().rule();
        let is_one_way = problem.contrast().is_one_way()
            && prepared.options.is_none()
            && prepared.targets.is_none()
            && !rule.is_alignment();
        let (rows, columns, dots) = if rule.is_pointwise() || prepared.targets.is_some() {
            let rows = self.direction_of_weights(&prepared, positives.logits)?;
            let dots = self.gradients_found(&call, &prepared.flags, &rows, gradients)?;
            (rows, None, dots)
        } else if is_one_way && self.is_fused(&call, gradients.dk.is_some()) {
            let rows = self.direction(&prepared, positives.logits)?;
            let dots = self.gradient_online(&call, &rows, gradients.dq)?;
            if let Some(dk) = gradients.dk {
                let masses = (&rows.masses, None);
                let known = self.known(&prepared, &prepared.flags, masses, &rows.rows.positive)?;
                self.gradient_of_candidates(&call, &known, dk)?;
            }
            (rows, None, dots)
        } else if is_one_way {
            let range = exponent_range(prepared.arithmetic);
            let bound = self.bound(&prepared, &positives, range)?;
            let rows = self.direction(&prepared, positives.logits)?;
            let dots = self.floats(prepared.shape.anchors)?;
            let found = (&positives.square_norms, &bound);
            let found = self.exponentials(&prepared, &rows, found, gradients.dk.is_some())?;
            self.chunked(&call, Softmax::Found(&found), gradients, &dots)?;
            (rows, None, dots)
        } else {
            let (rows, columns) = self.statistics(&prepared, positives)?;
            let of_columns = columns.as_ref().map(|columns| &columns.masses);
            let masses = (&rows.masses, of_columns);
            let known = self.known(&prepared, &prepared.flags, masses, &rows.rows.positive)?;
            let dots = self.gradients_known(&call, &known, gradients)?;
            (rows, columns, dots)
        };
        self.results(prepared, rows, columns, Some((&dots, upstream)))
    }

    /// Returns two words, the second of which is dscale.
    pub(crate) fn backward(
        &self,
        problem: &Problem<DeviceMatrix>,
        statistics: &DeviceStatistics<D>,
        upstream: f32,
        gradients: &Gradients<DeviceMatrix>,
    ) -> Result<Floats<D>, Error> {
        problem.check_gradients(gradients)?;
        statistics.check(problem)?;
        let prepared = self.prepare(problem)?;
        let call = Call::new(&prepared, upstream, gradients.accumulate);
        let has_columns = problem.contrast().has_columns();
        if prepared.targets.is_some() {
            // Weights come from stored scores, statistics with them.
            let positives = self.positives(&prepared)?;
            let rows = self.direction_of_weights(&prepared, positives.logits)?;
            let dots = self.gradients_found(&call, &prepared.flags, &rows, gradients)?;
            return self.reduce(&prepared, None, None, Some((&dots, upstream)));
        }
        let (rows, columns) = (&statistics.rows, statistics.columns.as_ref());
        let columns = columns.filter(|_| has_columns);
        self.count_positives(&prepared, &rows.positive)?;
        let found;
        let (flags, masses) = match statistics.derived_for(problem) {
            Some(derived) => (&derived.flags, (&derived.rows, derived.columns.as_ref())),
            None => {
                self.mean_of_positives(&prepared, &rows.positive)?;
                let of_columns = columns.map(|columns| self.masses_of(&prepared, columns));
                found = (self.masses_of(&prepared, rows)?, of_columns.transpose()?);
                (&prepared.flags, (&found.0, found.1.as_ref()))
            }
        };
        let known = self.known(&prepared, flags, masses, &rows.positive)?;
        let dots = self.gradients_known(&call, &known, gradients)?;
        // Statistics enter dscale through ∂φ/∂s alone, which is 0 for most rules.
        let moves = problem.contrast().rule().depends_on_scale();
        let (rows, columns) = (Some(rows).filter(|_| moves), columns.filter(|_| moves));
        self.reduce(&prepared, rows, columns, Some((&dots, upstream)))
    }

    /// dq of a one-way loss in 4NMD FLOPs; the same pass completes `statistics`. Returns ⟨q_i, dq_i⟩.
    fn gradient_online(
        &self,
        call: &Call<'_, D>,
        statistics: &Direction<D>,
        dq: DeviceMatrix,
    ) -> Result<Floats<D>, Error> {
        let prepared = call.prepared;
        let sums = self.fused_sums(call, None, false)?;
        let anchors = prepared.shape.anchors;
        let partial = Partial {
            sums: sums.normalisers.as_ref().map_or(0, Floats::address),
            splits: sums.splits,
            ..Partial::default()
        };
        self.combine(prepared, statistics.buffers(), 0, anchors, partial)?;
        let dots = self.floats(anchors)?;
        let masses = (&statistics.masses, None);
        self.finish(call, &Finish::whole(&sums, masses, dq, Some(&dots)))?;
        Ok(dots)
    }

    /// dk from a known softmax in 4NMD FLOPs.
    fn gradient_of_candidates(
        &self,
        call: &Call<'_, D>,
        known: &Known<'_, D>,
        dk: DeviceMatrix,
    ) -> Result<(), Error> {
        let sums = self.fused_sums(call, Some(known), true)?;
        self.finish(call, &Finish::whole(&sums, known.masses, dk, None))
    }

    /// All gradients of weights whose masses do not depend on the statistics `rows`, which the same pass completes.
    /// Returns ⟨q_i, dq_i⟩.
    fn gradients_found(
        &self,
        call: &Call<'_, D>,
        flags: &Floats<D>,
        rows: &Direction<D>,
        gradients: &Gradients<DeviceMatrix>,
    ) -> Result<Floats<D>, Error> {
        let prepared = call.prepared;
        let masses = (&rows.masses, None);
        let known = self.known(prepared, flags, masses, &rows.rows.positive)?;
        let dots = self.floats(prepared.shape.anchors)?;
        self.chunked(call, Softmax::Completing(&known, rows), gradients, &dots)?;
        Ok(dots)
    }

    /// Gradients of a loss of z₊ alone. Returns ⟨q_i, dq_i⟩.
    fn gradients_of_positives(
        &self,
        call: &Call<'_, D>,
        known: &Known<'_, D>,
        gradients: &Gradients<DeviceMatrix>,
    ) -> Result<Floats<D>, Error> {
        let dots = self.floats(call.prepared.shape.anchors)?;
        let none = Sums {
            sums: self.floats(1)?,
            normalisers: None,
            splits: 0,
            shift: None,
        };
        let finish = Finish::whole(&none, known.masses, gradients.dq, Some(&dots));
        self.finish(call, &finish)?;
        if let Some(dk) = gradients.dk {
            self.finish(call, &Finish::whole(&none, known.masses, dk, None))?;
        }
        Ok(dots)
    }

    /// All gradients from a known softmax. Returns ⟨q_i, dq_i⟩.
    fn gradients_known(
        &self,
        call: &Call<'_, D>,
        known: &Known<'_, D>,
        gradients: &Gradients<DeviceMatrix>,
    ) -> Result<Floats<D>, Error> {
        let prepared = call.prepared;
        if prepared.contrast().rule().is_alignment() {
            return self.gradients_of_positives(call, known, gradients);
        }
        let dots = self.floats(prepared.shape.anchors)?;
        if !self.is_fused(call, gradients.dk.is_some()) {
            self.chunked(call, Softmax::Known(known), gradients, &dots)?;
            return Ok(dots);
        }
        let sums = self.fused_sums(call, Some(known), false)?;
        let finish = Finish::whole(&sums, known.masses, gradients.dq, Some(&dots));
        self.finish(call, &finish)?;
        if let Some(dk) = gradients.dk {
            self.gradient_of_candidates(call, known, dk)?;
        }
        Ok(dots)
    }
}
