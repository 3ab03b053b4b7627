//! The tile loops of problems with options. One scheme of 8NMD FLOPs serves them all: statistics, then weights of one
//! term in chunks.

use super::choice::Cut;
use super::gradient::Known;
use super::kernels::Family;
use super::options::Options;
use super::params::{HopperOptionScoresParams, OptionScoresParams, ScoreOptions, ScoresParams};
use super::prepared::Prepared;
use super::results::Direction;
use super::similarity::Similarity;
use super::statistics::{Partial, scores_params};
use super::{Arithmetic, Device, Floats};
use crate::error::Error;

/// Statistics that a pass over weights completes, and its sums; `None` for a pass that does not.
type Completed<'a, D> = Option<(&'a Direction<D>, &'a OptionSums<D>)>;

/// Partial sums of a pass with options.
pub(super) struct OptionSums<D: Device> {
    sums: Floats<D>,
    second: Option<Floats<D>>,
    sets: Option<Floats<D>>,
}

impl<D: Device> OptionSums<D> {
    /// Where the pass of these vectors leaves them.
    fn vectors(&self, options: ScoreOptions) -> ScoreOptions {
        let address = |sums: &Option<Floats<D>>| sums.as_ref().map_or(0, Floats::address);
        ScoreOptions {
            second: address(&self.second),
            sets: address(&self.sets),
            ..options
        }
    }

    /// The sums as `combine` takes them.
    fn partial(&self, splits: u32) -> Partial {
        let address = |sums: &Option<Floats<D>>| sums.as_ref().map_or(0, Floats::address);
        Partial {
            sums: self.sums.address(),
            splits,
            second: address(&self.second),
            sets: address(&self.sets),
            ..Partial::default()
        }
    }
}

impl<D: Device> Similarity<'_, D> {
    /// Buffers for the sums of `rows` rows in `splits` splits.
    pub(super) fn option_sums(
        &self,
        options: &Options,
        splits: u32,
        rows: usize,
    ) -> Result<OptionSums<D>, Error> {
        let count = splits as usize * rows;
        Ok(OptionSums {
            sums: self.floats(2 * count)?,
            second: self.floats_if(options.has_second, 2 * count)?,
            sets: self.floats_if(options.has_sets, 4 * count)?,
        })
    }

    /// Statistics of all rows: 2NMD FLOPs.
    pub(super) fn statistics_with(
        &self,
        options: &Options,
        prepared: &Prepared<'_, D>,
        positive: Floats<D>,
    ) -> Result<Direction<D>, Error> {
        let rows = self.direction(prepared, positive)?;
        let (anchors, candidates) = (prepared.shape.anchors, prepared.shape.candidates);
        let cut = self.cut(
            prepared.arithmetic,
            prepared.anchor_rows,
            anchors,
            candidates,
        );
        let sums = self.option_sums(options, cut.splits, anchors)?;
        let params = ScoresParams {
            rows: sums.sums.address(),
            ..scores_params(prepared, 0, anchors)
        };
        let vectors = sums.vectors(options.with_positive(rows.rows.positive.address()));
        self.pass_with(
            options.statistics,
            prepared.arithmetic,
            cut,
            params,
            vectors,
        )?;
        let partial = sums.partial(cut.splits);
        self.combine(prepared, rows.buffers(), 0, anchors, partial)?;
        if options.has_sets {
            self.count_positives(prepared, &rows.rows.positive)?;
        }
        Ok(rows)
    }

    /// The weights of the chunk of `params`. The same pass of a pointwise rule completes the statistics that `found`
    /// names, by way of sums.
    pub(super) fn weights_with(
        &self,
        (options, found): (&Options, Completed<'_, D>),
        prepared: &Prepared<'_, D>,
        known: &Known<'_, D>,
        cut: Cut,
        params: ScoresParams,
    ) -> Result<(), Error> {
        let masses = known.masses.0;
        let at = |plane: Option<&Floats<D>>| {
            plane.map_or(0, |plane| plane.at(params.first_anchor as usize))
        };
        let vectors = ScoreOptions {
            second_offset2: at(masses.second2.as_ref()),
            positive: at(Some(masses.of_positive())),
            uniform: at(masses.uniform.as_ref()),
            ..options.with_positive(known.positive)
        };
        let Some((rows, sums)) = found else {
            return self.pass_with(options.weights, prepared.arithmetic, cut, params, vectors);
        };
        let (first, count) = (params.first_anchor as usize, params.anchors.rows as usize);
        let params = ScoresParams {
            rows: sums.sums.address(),
            ..params
        };
        let vectors = sums.vectors(vectors);
        self.pass_with(options.weights, prepared.arithmetic, cut, params, vectors)?;
        self.combine(
            prepared,
            rows.buffers(),
            first,
            count,
            sums.partial(cut.splits),
        )
    }

    /// [`pass`](Self::pass) of a kernel with options.
    fn pass_with(
        &self,
        family: Family,
        arithmetic: Arithmetic,
        cut: Cut,
        params: ScoresParams,
        options: ScoreOptions,
    ) -> Result<(), Error> {
        let scores = ScoresParams {
            tiles_per_split: cut.per_split,
            ..params
        };
        let elements = scores.anchors.row_bytes as usize / arithmetic.bytes();
        let kernel = self.kernel(family, arithmetic, elements)?;
        let grid = cut.grid(self.row_tiles(arithmetic, scores.anchors.rows as usize));
        let params = OptionScoresParams { scores, options };
        self.launch_tiles(kernel, arithmetic, grid, &params, || {
            let [anchors, candidates, weights] = self.maps(kernel, &scores)?;
            Ok(HopperOptionScoresParams {
                anchors,
                candidates,
                weights,
                scores,
                options,
                grid,
                padding: [0; 3],
            })
        })
    }
}
