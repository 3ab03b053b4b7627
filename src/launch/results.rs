//! Results of a call in device memory: loss, ∂loss/∂s, statistics, and the masses derived from these.

use super::params::MergeParams;
use super::prepared::Prepared;
use super::similarity::Similarity;
use super::{Device, DeviceMatrix, Floats, count, kernels};
use crate::contrast::{Contrast, Shape, same_rows};
use crate::error::Error;
use crate::inputs::Problem;
use crate::rows::extent;
use crate::statistics::{GIVEN, OTHERS, RowStatistics, Statistics};

/// Loss, ∂loss/∂s and statistics of a call.
pub(crate) struct Results<D: Device> {
    pub loss_and_dscale: Floats<D>,
    pub statistics: DeviceStatistics<D>,
}

#[cfg(feature = "emulator")]
impl<D: Device> Results<D> {
    pub(crate) fn read(&self, device: &D) -> Result<crate::memory::Evaluated, Error> {
        let numbers = self.loss_and_dscale.read(device)?;
        Ok(crate::memory::Evaluated {
            loss: numbers[0],
            dscale: numbers[1],
            statistics: self.statistics.read(device)?,
        })
    }
}

/// Statistics of one direction (rows or columns): lse⁻ and z₊, an f32 a row each.
pub(crate) struct DeviceRows<D: Device> {
    pub negatives_lse: Floats<D>,
    pub positive: Floats<D>,
}

/// Statistics in device memory.
pub(crate) struct DeviceStatistics<D: Device> {
    pub rows: DeviceRows<D>,
    /// `None` where columns have no loss.
    pub columns: Option<DeviceRows<D>>,
    /// `None` where the caller gave the statistics.
    pub(super) derived: Option<Derived<D>>,
}

/// Offsets and masses that a call derived from its statistics, for a `backward` of the same contrast.
pub(super) struct Derived<D: Device> {
    /// The problem's [`origin`]. `None` after a merge, which changes the statistics. The memory stays: a graph that was
    /// recorded before may read it.
    of: Option<(Contrast, Shape, usize)>,
    pub rows: Masses<D>,
    pub columns: Option<Masses<D>>,
    /// `Prepared::flags`.
    pub flags: Floats<D>,
}

/// Offset and masses of each row of one direction, from the row rule: `RowValues` of tile/row_rule.h.
pub(super) struct Masses<D: Device> {
    /// The offset o of each row, in base 2.
    pub offset2: Floats<D>,
    /// a = ∂φ/∂lse⁻.
    pub negatives: Floats<D>,
    /// c = −∂φ/∂z₊, where it differs from a.
    pub positive: Option<Floats<D>>,
}

impl<D: Device> Masses<D> {
    /// c.
    pub fn of_positive(&self) -> &Floats<D> {
        self.positive.as_ref().unwrap_or(&self.negatives)
    }
}

/// Statistics of one direction, with their masses.
pub(super) struct Direction<D: Device> {
    pub rows: DeviceRows<D>,
    pub masses: Masses<D>,
}

impl<D: Device> Direction<D> {
    pub fn buffers(&self) -> (&DeviceRows<D>, &Masses<D>) {
        (&self.rows, &self.masses)
    }
}

impl<D: Device> DeviceRows<D> {
    fn read(&self, device: &D) -> Result<RowStatistics, Error> {
        Ok(RowStatistics {
            negatives_lse: self.negatives_lse.read(device)?,
            positive: self.positive.read(device)?,
        })
    }

    fn check(&self, argument: &'static str, rows: usize) -> Result<(), Error> {
        same_rows(argument, self.negatives_lse.len(), rows)?;
        same_rows(argument, self.positive.len(), rows)
    }
}

impl<D: Device> DeviceStatistics<D> {
    /// Statistics that come from the caller: of rows, and of columns where these have a loss.
    pub(crate) fn given(rows: DeviceRows<D>, columns: Option<DeviceRows<D>>) -> Self {
        Self {
            rows,
            columns,
            derived: None,
        }
    }

    /// A copy of statistics in host memory.
    pub(crate) fn upload(device: &D, statistics: &Statistics) -> Result<Self, Error> {
        let copied = |argument, rows: &RowStatistics| -> Result<DeviceRows<D>, Error> {
            same_rows(argument, rows.negatives_lse.len(), rows.positive.len())?;
            extent(argument, [rows.len(), 1, 1])?;
            Ok(DeviceRows {
                negatives_lse: Floats::written(device, &rows.negatives_lse)?,
                positive: Floats::written(device, &rows.positive)?,
            })
        };
        let columns = statistics.columns.as_ref();
        let rows = copied(GIVEN[0], &statistics.rows)?;
        let columns = columns.map(|columns| copied(GIVEN[1], columns));
        Ok(Self::given(rows, columns.transpose()?))
    }

    /// Statistics that a call has computed, with their masses.
    pub(super) fn found(
        prepared: Prepared<'_, D>,
        rows: Direction<D>,
        columns: Option<Direction<D>>,
    ) -> Self {
        let (columns, of_columns) = columns.map(|c| (c.rows, c.masses)).unzip();
        Self {
            rows: rows.rows,
            columns,
            derived: Some(Derived {
                of: Some(origin(prepared.problem)),
                rows: rows.masses,
                columns: of_columns,
                flags: prepared.flags,
            }),
        }
    }

    pub(crate) fn read(&self, device: &D) -> Result<Statistics, Error> {
        let columns = self.columns.as_ref();
        Ok(Statistics {
            rows: self.rows.read(device)?,
            columns: columns.map(|columns| columns.read(device)).transpose()?,
        })
    }

    /// Checks that these can be the statistics of a problem.
    pub(super) fn check(&self, problem: &Problem<DeviceMatrix>) -> Result<(), Error> {
        let (shape, columns) = (problem.shape(), problem.contrast().has_columns());
        self.check_rows(GIVEN, shape.anchors, columns.then_some(shape.candidates))
    }

    fn check_rows(
        &self,
        names: [&'static str; 2],
        rows: usize,
        columns: Option<usize>,
    ) -> Result<(), Error> {
        self.rows.check(names[0], rows)?;
        match (&self.columns, columns) {
            (_, None) => Ok(()),
            (Some(columns), Some(expected)) => columns.check(names[1], expected),
            (None, Some(expected)) => same_rows(names[1], 0, expected),
        }
    }

    /// Masses from the call that computed the statistics, where `problem` has the same loss and size.
    pub(super) fn derived_for(&self, problem: &Problem<DeviceMatrix>) -> Option<&Derived<D>> {
        let derived = self.derived.as_ref()?;
        (derived.of == Some(origin(problem))).then_some(derived)
    }
}

/// Contrast, shape and number of negatives: what [`Derived`] depends on besides lse⁻, z₊ and s.
fn origin(problem: &Problem<DeviceMatrix>) -> (Contrast, Shape, usize) {
    (*problem.contrast(), problem.shape(), problem.negatives())
}

impl<D: Device> Similarity<'_, D> {
    /// Merges `others`, of the same anchors over other candidates, into `statistics`.
    pub(crate) fn merge(
        &self,
        statistics: &mut DeviceStatistics<D>,
        others: &DeviceStatistics<D>,
    ) -> Result<(), Error> {
        let columns = statistics.columns.as_ref().map(|c| c.positive.len());
        others.check_rows(OTHERS, statistics.rows.positive.len(), columns)?;
        self.merge_rows(&statistics.rows, &others.rows)?;
        if let (Some(columns), Some(others)) = (&statistics.columns, &others.columns) {
            self.merge_rows(columns, others)?;
        }
        if let Some(derived) = &mut statistics.derived {
            derived.of = None;
        }
        Ok(())
    }

    fn merge_rows(&self, into: &DeviceRows<D>, others: &DeviceRows<D>) -> Result<(), Error> {
        let rows = count("statistics", into.positive.len())?;
        let params = MergeParams {
            negatives_lse: into.negatives_lse.address(),
            positive: into.positive.address(),
            other_lse: others.negatives_lse.address(),
            other_positive: others.positive.address(),
            rows,
            padding: 0,
        };
        let kernel = kernels::MERGE_STATISTICS;
        self.device
            .start(kernel, kernel.grid(rows as usize), &params)
    }
}
