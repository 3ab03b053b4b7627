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

impl<D: Device> Similarity<'_, D> {
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
        let count = cut.splits as usize * anchors;
        let sums = self.floats(2 * count)?;
        let second = self.floats_if(options.has_second, 2 * count)?;
        let sets = self.floats_if(options.has_sets, 4 * count)?;
        let address = |sums: &Option<Floats<D>>| sums.as_ref().map_or(0, Floats::address);
        let params = ScoresParams {
            rows: sums.address(),
            ..scores_params(prepared, 0, anchors)
        };
        let vectors = ScoreOptions {
            second: address(&second),
            sets: address(&sets),
            ..options.with_positive(rows.rows.positive.address())
        };
        self.pass_with(
            options.statistics,
            prepared.arithmetic,
            cut,
            params,
            vectors,
        )?;
        let partial = Partial {
            sums: sums.address(),
            splits: cut.splits,
            second: address(&second),
            sets: address(&sets),
            ..Partial::default()
        };
        self.combine(prepared, rows.buffers(), 0, anchors, partial)?;
        if options.has_sets {
            self.count_positives(prepared, &rows.rows.positive)?;
        }
        Ok(rows)
    }

    /// The weights of the chunk of `params`.
    pub(super) fn weights_with(
        &self,
        options: &Options,
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
        self.pass_with(options.weights, prepared.arithmetic, cut, params, vectors)
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
                padding: [0; 5],
            })
        })
    }
}
