//! Results of a call in device memory: loss, ∂loss/∂s, statistics, and the masses derived from these.

use super::params::{MergeParams, RowPlanes};
use super::prepared::Prepared;
use super::similarity::Similarity;
use super::{Device, DeviceMatrix, Floats, count, kernels};
use crate::contrast::{Contrast, Shape, same_rows};
use crate::error::Error;
use crate::losses::RowRule;
use crate::problem::Problem;
use crate::rows::extent;
use crate::statistics::{
    GIVEN, OTHERS, RowStatistics, SetStatistics, Statistics, TARGETS_DO_NOT_MERGE,
};

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

/// Statistics of one direction (rows or columns), an f32 a row each: [`RowStatistics`].
pub(crate) struct DeviceRows<D: Device> {
    pub negatives_lse: Floats<D>,
    pub positive: Floats<D>,
    /// With two exponents and soft targets, and with sets lse⁺.
    pub second_lse: Option<Floats<D>>,
    /// With soft targets.
    pub target_mean: Option<Floats<D>>,
    pub sets: Option<DeviceSets<D>>,
}

/// [`SetStatistics`], but for lse⁺.
pub(crate) struct DeviceSets<D: Device> {
    pub positives: Floats<D>,
    pub negatives_mean: Floats<D>,
    pub negatives: Floats<D>,
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
    /// The problem's [`origin`]. `None` where vectors of the caller's enter the masses, and after a merge, which changes the statistics. The memory stays: a graph that was
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
    /// o₂ in base 2, where there is a second exponential.
    pub second2: Option<Floats<D>>,
    /// ε′, with label smoothing.
    pub uniform: Option<Floats<D>>,
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
    /// lse⁻ and z₊ alone.
    pub(crate) fn of_one_positive(negatives_lse: Floats<D>, positive: Floats<D>) -> Self {
        Self {
            negatives_lse,
            positive,
            second_lse: None,
            target_mean: None,
            sets: None,
        }
    }

    /// Buffers for what a rule needs, with a given z₊.
    pub(super) fn unwritten(device: &D, rule: RowRule, positive: Floats<D>) -> Result<Self, Error> {
        let rows = positive.len();
        let floats = || Floats::unwritten(device, rows);
        let has_targets = rule.target_scale().is_some();
        let has_second = has_targets || rule.takes_sets() || rule.exponents().is_some();
        let sets = rule.takes_sets().then(|| -> Result<_, Error> {
            Ok(DeviceSets {
                positives: floats()?,
                negatives_mean: floats()?,
                negatives: floats()?,
            })
        });
        Ok(Self {
            negatives_lse: floats()?,
            positive,
            second_lse: has_second.then(floats).transpose()?,
            target_mean: has_targets.then(floats).transpose()?,
            sets: sets.transpose()?,
        })
    }

    /// A copy of statistics in host memory.
    fn upload(device: &D, argument: &'static str, rows: &RowStatistics) -> Result<Self, Error> {
        let floats = |given: &[f32]| {
            same_rows(argument, given.len(), rows.len())?;
            Floats::written(device, given)
        };
        extent(argument, [rows.len(), 1, 1])?;
        let sets = rows.sets.as_ref();
        let second = match sets {
            Some(sets) => &sets.positives_lse,
            None => &rows.second_lse,
        };
        let sets = sets.map(|sets| -> Result<_, Error> {
            Ok(DeviceSets {
                positives: floats(&sets.positives)?,
                negatives_mean: floats(&sets.negatives_mean)?,
                negatives: floats(&sets.negatives)?,
            })
        });
        let sets = sets.transpose()?;
        let has_second = sets.is_some() || !second.is_empty();
        let mean = &rows.target_mean;
        let mean = (!mean.is_empty()).then(|| floats(mean));
        Ok(Self {
            negatives_lse: floats(&rows.negatives_lse)?,
            positive: floats(&rows.positive)?,
            second_lse: has_second.then(|| floats(second)).transpose()?,
            target_mean: mean.transpose()?,
            sets,
        })
    }

    fn read(&self, device: &D) -> Result<RowStatistics, Error> {
        let read = |plane: &Option<Floats<D>>| match plane {
            Some(plane) => plane.read(device),
            None => Ok(Vec::new()),
        };
        let second = read(&self.second_lse)?;
        let (second_lse, sets) = match &self.sets {
            None => (second, None),
            Some(sets) => {
                let sets = SetStatistics {
                    positives_lse: second,
                    positives: sets.positives.read(device)?,
                    negatives_mean: sets.negatives_mean.read(device)?,
                    negatives: sets.negatives.read(device)?,
                };
                (Vec::new(), Some(sets))
            }
        };
        Ok(RowStatistics {
            negatives_lse: self.negatives_lse.read(device)?,
            positive: self.positive.read(device)?,
            second_lse,
            target_mean: read(&self.target_mean)?,
            sets,
        })
    }

    /// The planes from row `first` on, as kernels take them.
    pub(super) fn params(&self, first: usize) -> RowPlanes {
        let at = |plane: Option<&Floats<D>>| plane.map_or(0, |plane| plane.at(first));
        let sets = self.sets.as_ref();
        RowPlanes {
            negatives_lse: self.negatives_lse.at(first),
            positive: self.positive.at(first),
            second_lse: at(self.second_lse.as_ref()),
            negatives_mean: match sets {
                Some(sets) => at(Some(&sets.negatives_mean)),
                None => at(self.target_mean.as_ref()),
            },
            positives: at(sets.map(|sets| &sets.positives)),
            negatives: at(sets.map(|sets| &sets.negatives)),
        }
    }

    /// All planes: lse⁻ and z₊ first.
    pub(crate) fn planes(&self) -> impl Iterator<Item = &Floats<D>> {
        let sets = self.sets.iter();
        let of_sets =
            sets.flat_map(|sets| [&sets.positives, &sets.negatives_mean, &sets.negatives]);
        let first = [&self.negatives_lse, &self.positive];
        let others = self.second_lse.iter().chain(&self.target_mean);
        first.into_iter().chain(others).chain(of_sets)
    }

    fn check(&self, argument: &'static str, rows: usize) -> Result<(), Error> {
        self.planes()
            .try_for_each(|plane| same_rows(argument, plane.len(), rows))
    }

    /// Whether there are a second log-sum-exp, means of targets and sets.
    fn has_planes(&self) -> [bool; 3] {
        let Self {
            second_lse,
            target_mean,
            sets,
            ..
        } = self;
        [second_lse.is_some(), target_mean.is_some(), sets.is_some()]
    }

    /// Checks that there are the planes that `others` has.
    fn check_planes(&self, argument: &'static str, others: [bool; 3]) -> Result<(), Error> {
        let own = self.has_planes();
        let rows = |wanted| if wanted { self.positive.len() } else { 0 };
        for (own, wanted) in own.into_iter().zip(others) {
            same_rows(argument, rows(own), rows(wanted))?;
        }
        Ok(())
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
        let columns = statistics.columns.as_ref();
        let rows = DeviceRows::upload(device, GIVEN[0], &statistics.rows)?;
        let columns = columns.map(|columns| DeviceRows::upload(device, GIVEN[1], columns));
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
                of: origin(prepared.problem),
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
        let (sets, rule) = (problem.contrast().has_sets(), problem.contrast().rule());
        let targets = rule.target_scale().is_some();
        let second = targets || sets || rule.exponents().is_some();
        self.rows.check_planes(GIVEN[0], [second, targets, sets])?;
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
        (derived.of.is_some() && derived.of == origin(problem)).then_some(derived)
    }
}

/// Contrast, shape and number of negatives: what [`Derived`] depends on besides lse⁻, z₊ and s. `None` with weights of
/// rows, which may change between calls.
fn origin(problem: &Problem<DeviceMatrix>) -> Option<(Contrast, Shape, usize)> {
    let origin = (*problem.contrast(), problem.shape(), problem.negatives());
    problem.row_weights().is_none().then_some(origin)
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
        let planes = statistics.rows.has_planes();
        if planes[1] {
            return Err(TARGETS_DO_NOT_MERGE);
        }
        others.rows.check_planes(OTHERS[0], planes)?;
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
            of_rows: into.params(0),
            others: others.params(0),
            rows,
            padding: 0,
        };
        let kernel = kernels::MERGE_STATISTICS;
        self.device
            .start(kernel, kernel.grid(rows as usize), &params)
    }
}
