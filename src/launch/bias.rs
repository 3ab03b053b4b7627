//! The gradient of the candidates' biases: sums of the columns of stored weights, less the masses of the positives.

use super::gradient::Call;
use super::params::{
    ColumnSumParams, FinishBiasParams, FinishLogitBiasParams, Matrix, POSITIVE_INDEX,
};
use super::results::Masses;
use super::similarity::Similarity;
use super::{Device, DeviceMatrix, Floats, kernels};
use crate::error::Error;

/// Columns of a block of `sum_columns`.
const COLUMNS: usize = 64;

impl<D: Device> Similarity<'_, D> {
    /// Sums the columns of a chunk of weights; `accumulate` adds to the sums of the chunks before.
    pub(super) fn sum_columns(
        &self,
        weights: Matrix,
        columns: usize,
        accumulate: bool,
        sums: &Floats<D>,
    ) -> Result<(), Error> {
        let params = ColumnSumParams {
            weights,
            columns: columns as u32,
            accumulate: u32::from(accumulate),
            sums: sums.address(),
        };
        let grid = [columns.div_ceil(COLUMNS) as u32, 1, 1];
        self.device.start(kernels::SUM_COLUMNS, grid, &params)
    }

    /// Writes ∂loss/∂c, or ∂loss/∂b of a pointwise rule, from the sums of all weights, which have the `shift`.
    pub(super) fn finish_bias(
        &self,
        call: &Call<'_, D>,
        sums: &Floats<D>,
        shift: Option<u64>,
        masses: &Masses<D>,
        gradient: DeviceMatrix,
    ) -> Result<(), Error> {
        let prepared = call.prepared;
        if prepared.contrast().rule().is_pointwise() {
            let params = FinishLogitBiasParams {
                sums: sums.address(),
                shift: shift.unwrap_or(0),
                coefficient: call.coefficient,
                columns: prepared.view.candidates,
                accumulates: u32::from(call.accumulate.candidates),
                padding: 0,
                gradient: gradient.into(),
            };
            return self
                .device
                .start(kernels::FINISH_LOGIT_BIAS, [1; 3], &params);
        }
        // The weights of sets have the positives.
        let apart = !prepared.contrast().has_sets();
        let groups = (apart && prepared.view.rule == POSITIVE_INDEX)
            .then(|| self.group(&prepared.view))
            .transpose()?;
        let params = FinishBiasParams {
            contrast: prepared.view,
            sums: sums.address(),
            shift: shift.unwrap_or(0),
            row_mass: if apart {
                masses.of_positive().address()
            } else {
                0
            },
            starts: groups.as_ref().map_or(0, |groups| groups.starts.address()),
            order: groups.as_ref().map_or(0, |groups| groups.order.address()),
            counted: prepared.counted(),
            coefficient: call.coefficient,
            accumulates: u32::from(call.accumulate.candidates),
            gradient: gradient.into(),
        };
        let kernel = kernels::FINISH_BIAS;
        let grid = kernel.grid(prepared.shape.candidates);
        self.device.start(kernel, grid, &params)
    }
}
