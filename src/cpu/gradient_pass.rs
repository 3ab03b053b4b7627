//! Computes dq and dk, a chunk of rows at a time: the chunk's softmax weights W (rows × M) are stored, enter two
//! products, and are overwritten by the next chunk's.
//!
//! ```text
//! dq_i = f_i · Σ_j W_ij k_j − p_i · k₊        dk_j = Σ_i W_ij (f_i · q_i) − Σ_{i: j is positive of i} p_i · q_i
//! ```
//! with w the row's weight, a_i and c_i the masses of [`RowRule`](crate::losses::RowRule), p_i = upstream·w·s·c_i.
//! With known statistics W_ij is ∂φ/∂z_ij, of row i and, with column offsets, of column j; f_i = upstream·w·s. One-way
//! losses with a fixed offset o save 2NMD FLOPs: W_ij is exp(z_ij − o), row sums give lse⁻, f_i has a_i/Σ_j W_ij too.

use std::f64::consts::LOG2_E;

use rayon::prelude::*;

use super::blocks::{BLOCK, GROUP, LogitTile};
use super::option_statistics::RowSums;
use super::options::RowTerms;
use super::pack::{Buffer, Panels, pack_summed, row_items, weight_rows_to_items, weights_to_items};
use super::problem::Problem;
use super::simd::{Item, Left, Output};
use super::statistics_pass::Summaries;
use crate::element::{DType, Element};
use crate::gradients::Accumulate;
use crate::losses::{RowContext, RowLogits, RowValues};
use crate::rows::{Matrix, RowsMut};

/// Offsets and masses of rows, times the rows' weights, where row statistics are known before the pass.
pub(super) struct Known {
    /// o_i · log₂e.
    pub row_offset2: Vec<f32>,
    /// o_j · log₂e of each column, where columns have a loss or anchors are the candidates.
    pub column_offset2: Option<Vec<f32>>,
    /// c_i, plus the positive's c_j where there are column offsets.
    pub positive_mass: Vec<f64>,
    /// With options, what the weights of each row depend on; otherwise empty.
    pub terms: Vec<RowTerms>,
    /// Σ of ∂φ/∂s over rows and columns.
    pub scale_slopes: f64,
}

impl Known {
    pub fn new<T: Element>(problem: &Problem<'_, T>, summaries: &Summaries) -> Self {
        let positives: Vec<f64> = summaries.rows.iter().map(|row| row.positive).collect();
        let context = problem.context(&positives);
        let weights = problem.weights(&positives);
        let rule = problem.contrast.rule();
        let values = |rows: &Vec<RowLogits>| -> Vec<RowValues> {
            let of = |(i, logits): (usize, &RowLogits)| {
                let values = rule.values(logits, &context);
                weights
                    .as_ref()
                    .map_or(values, |weights| values.weighted(weights[i]))
            };
            rows.iter().enumerate().map(of).collect()
        };
        let offset2 = |values: &[RowValues]| -> Vec<f32> {
            let offset2 = |values: &RowValues| (values.offset * LOG2_E) as f32;
            values.iter().map(offset2).collect()
        };
        let rows = values(&summaries.rows);
        let columns = summaries.columns.as_ref().map(values);
        let terms = match problem.options {
            Some(_) => rows.iter().map(RowTerms::new).collect(),
            None => Vec::new(),
        };
        // Where anchors are the candidates, column j has the statistics of row j.
        let other = match problem.contrast.is_shared() && problem.options.is_none() {
            true => Some(&rows),
            false => columns.as_ref(),
        };
        let of_partner = |i: usize| match (other, problem.positive(i)) {
            (Some(other), Some(partner)) => other[partner].positive,
            _ => 0.0,
        };
        let mass = (0..rows.len()).map(|i| rows[i].positive + of_partner(i));
        // Of several shards only the one with the row's positive counts ∂φ/∂s.
        let here = (0..rows.len()).filter(|&i| problem.positive_row(i).is_some());
        let of_columns = columns.iter().flatten().map(|values| values.scale);
        Self {
            positive_mass: mass.collect(),
            column_offset2: other.map(|other| offset2(other)),
            row_offset2: offset2(&rows),
            terms,
            scale_slopes: here.map(|i| rows[i].scale).chain(of_columns).sum(),
        }
    }
}

/// Results of a gradient pass besides the gradients.
#[derive(Default)]
pub(super) struct Outcome {
    /// lse⁻ of each row; empty where it was known.
    pub negatives_lse: Vec<f64>,
    /// Σ_i f_i W_ij / s less the positives' masses, of each candidate; empty where it was not asked for.
    pub dbias: Vec<f64>,
    /// The statistics of each row, where the pass finds them.
    pub rows: Vec<RowLogits>,
    /// Σ_i ⟨q_i, dq_i⟩.
    pub anchors_dot_gradient: f64,
    /// Σ of ∂φ/∂s over rows and columns.
    pub scale_slopes: f64,
}

/// Rows of a chunk whose weights fit `budget` bytes: whole groups, at least one.
pub(super) fn chunk_rows(budget: usize, anchors: usize, candidates: usize) -> usize {
    let row_bytes = candidates.next_multiple_of(BLOCK) * size_of::<Item>();
    let rows = (budget / row_bytes / GROUP).max(1) * GROUP;
    rows.min(anchors.next_multiple_of(GROUP))
}

/// Rows of a gradient that one task computes: fewer in small problems, to balance threads. The number divides BLOCK
/// and is a multiple of every kernel's tile rows. It sets the order of Σ⟨q_i, dq_i⟩ and of no other sum.
fn task_rows(rows: usize) -> usize {
    if rows < 16 * GROUP { GROUP / 4 } else { GROUP }
}

/// The gradient pass of one call.
pub(super) struct GradientPass<'a, T> {
    pub problem: &'a Problem<'a, T>,
    /// `None`: the chunk's row sums give lse⁻, which needs a fixed offset.
    pub known: Option<&'a Known>,
    /// Whether gradients are added to the buffers' contents.
    pub accumulate: Accumulate,
    /// upstream · w · s, the factor of every gradient.
    pub coefficient: f64,
    /// Bytes for a chunk's weights.
    pub budget: usize,
    /// Whether the candidates' biases have a gradient.
    pub with_bias: bool,
    /// Whether the pass finds the statistics of a pointwise rule, whose weights do not depend on them.
    pub finds_rows: bool,
}

/// The softmax weights W of a chunk: blocks of BLOCK columns, one after the other.
struct Weights {
    /// Rows of the chunk.
    rows: usize,
    /// Items along rows, for dq: `rows` × BLOCK elements a block.
    along: Buffer,
    /// Items along columns, for dk; empty for f32 items, which are those of `along`.
    across: Buffer,
    /// Sum of each row in each block.
    sums: Vec<f32>,
    /// Sum of each column of each group of rows in each block, if wanted.
    columns: Vec<f32>,
    /// [`RowSums`] of each row in each block, if wanted.
    pointwise: Vec<[f32; 3]>,
}

/// What a task fills besides weights: sums of rows, of columns, and those of a pointwise rule.
type TaskSums<'a> = (&'a mut [f32], &'a mut [f32], &'a mut [[f32; 3]]);

impl<T: Element> GradientPass<'_, T> {
    pub fn run<G: Element>(&self, dq: RowsMut<'_, G>, dk: Option<RowsMut<'_, G>>) -> Outcome {
        let problem = self.problem;
        let (shape, kernel, workspace) = (problem.shape, problem.kernel, problem.workspace);
        let dim = shape.dim;
        let chunk = chunk_rows(self.budget, shape.anchors, shape.candidates);
        let blocks = match problem.contrast.rule().is_alignment() {
            true => 0,
            false => problem.blocks(),
        };
        let elements = blocks * chunk * BLOCK;
        let mut weights = Weights {
            rows: chunk,
            along: workspace.take(elements / kernel.depth),
            across: workspace.take(match kernel.depth {
                1 => 0,
                depth => elements / depth,
            }),
            sums: vec![0.0; blocks * chunk],
            columns: vec![0.0; usize::from(self.with_bias) * blocks * chunk / GROUP * BLOCK],
            pointwise: vec![[0.0; 3]; usize::from(self.finds_rows) * blocks * chunk],
        };
        // With options, dz is the sum of dq and dk where anchors are the candidates.
        let is_joined = problem.contrast.is_shared() && problem.options.is_some();
        let candidates = pack_summed(kernel, &problem.k.contiguous(), dim, None, workspace);
        let mut sums = workspace.take(chunk * dim);
        let mut storage = Vec::new();
        let mut outcome = Outcome {
            scale_slopes: self.known.map_or(0.0, |known| known.scale_slopes),
            ..Outcome::default()
        };
        let context = problem.context(&problem.positive_logits);
        let row_weights = problem.weights(&problem.positive_logits);
        let Accumulate {
            anchors,
            candidates: of_dk,
        } = self.accumulate;
        let (mut dq, dk, of_dk) = match is_joined {
            true => (None, Some(dq), anchors),
            false => (Some(dq.into_data()), dk, of_dk),
        };
        with_f32(dk, of_dk, |mut dk| {
            for first_row in (0..shape.anchors).step_by(chunk) {
                let rows = chunk.min(shape.anchors - first_row);
                let anchors = problem.anchors(first_row, rows);
                let items = row_items(kernel, &anchors, dim, &mut storage);
                self.fill_weights(&mut weights, items, first_row, rows);
                if self.finds_rows {
                    self.find_rows(&weights, first_row, rows, &mut outcome.rows);
                }
                let of_rows = (&context, row_weights.as_deref());
                let factors = self.factors(&weights, first_row, rows, of_rows, &mut outcome);
                if self.with_bias {
                    self.add_to_bias(&weights, first_row, rows, &mut outcome.dbias);
                }

                let sums = &mut sums.f32_mut()[..rows * dim];
                if blocks == 0 {
                    sums.fill(0.0);
                }
                let target = match &mut dq {
                    Some((dq, stride)) => Target::Rounded(&mut dq[first_row * *stride..], *stride),
                    None => Target::Sums,
                };
                outcome.anchors_dot_gradient +=
                    self.anchor_gradients(&weights, &candidates, &factors, first_row, sums, target);

                if let Some(dk) = dk.as_deref_mut() {
                    let factor = Some(factors.softmax.as_slice());
                    let scaled = pack_summed(kernel, &anchors, dim, factor, workspace);
                    let accumulate = first_row > 0;
                    self.add_to_candidates(&weights, &scaled, &factors, first_row, dk, accumulate);
                    if is_joined {
                        let own = &mut dk[first_row * dim..][..rows * dim];
                        own.iter_mut().zip(&*sums).for_each(|(dz, dq)| *dz += dq);
                    }
                }
            }
        });
        outcome
    }

    /// Computes W for a chunk of rows, block by block.
    fn fill_weights(&self, weights: &mut Weights, items: &[Item], first_row: usize, rows: usize) {
        let depth = self.problem.kernel.depth;
        let (groups, group_items) = (weights.rows / GROUP, GROUP * BLOCK / depth);
        let mut across = weights.across.items_mut().chunks_mut(group_items);
        let along = weights.along.items_mut().chunks_mut(group_items);
        let mut columns = weights.columns.chunks_mut(BLOCK);
        let mut pointwise = weights.pointwise.chunks_mut(GROUP);
        let targets = self.problem.targets.as_ref();
        let target_items = targets.map(|x| x.items(self.problem.kernel, first_row, rows));
        let target_items = target_items.as_deref();
        let mut tasks = Vec::new();
        for (place, (along, sums)) in along.zip(weights.sums.chunks_mut(GROUP)).enumerate() {
            let columns = columns.next().unwrap_or_default();
            let pointwise = pointwise.next().unwrap_or_default();
            let across = across.next().unwrap_or_default();
            let (block, first) = (place / groups, place % groups * GROUP);
            if first < rows {
                let sums = &mut sums[..GROUP.min(rows - first)];
                tasks.push((block, first, along, across, (sums, columns, pointwise)));
            }
        }
        let steps = self.problem.steps();
        tasks
            .into_par_iter()
            .for_each(|(block, first, along, across, sums)| {
                let count = sums.0.len();
                let items = &items[first * steps..(first + count) * steps];
                let target_items = targets.zip(target_items).map(|(targets, items)| {
                    let steps = targets.steps(self.problem.kernel);
                    &items[first * steps..(first + count) * steps]
                });
                let at = (first_row + first, block);
                let (sums, columns, pointwise): TaskSums<'_> = sums;
                if depth == 1 {
                    let tile = bytemuck::cast_slice_mut(along);
                    let tile = &mut tile[..count * BLOCK];
                    self.fill_tile(
                        [items, target_items.unwrap_or_default()],
                        at,
                        tile,
                        (sums, pointwise),
                    );
                    return sum_columns(tile, columns);
                }
                let mut tile: LogitTile = [0.0; GROUP * BLOCK];
                self.fill_tile(
                    [items, target_items.unwrap_or_default()],
                    at,
                    &mut tile,
                    (sums, pointwise),
                );
                sum_columns(&tile[..count * BLOCK], columns);
                weights_to_items(&tile[..count * BLOCK], along);
                for (pair, items) in tile[..count.next_multiple_of(2) * BLOCK]
                    .chunks_exact(2 * BLOCK)
                    .zip(across.chunks_exact_mut(BLOCK))
                {
                    let (upper, lower) = pair.split_at(BLOCK);
                    weight_rows_to_items(upper, lower, items);
                }
            });
    }

    /// Computes the weights of one group of rows (as many as `sums`) in one block. Writes zeros past the last column
    /// and in the row after the last, which bf16 items along columns may include.
    fn fill_tile(
        &self,
        [items, target_items]: [&[Item]; 2],
        (first_row, block): (usize, usize),
        tile: &mut [f32],
        (sums, pointwise): (&mut [f32], &mut [[f32; 3]]),
    ) {
        let problem = self.problem;
        let (kernel, scale2) = (problem.kernel, problem.scale2);
        let (first_column, width) = problem.block(block);
        problem.negative_products(items, first_row, block, tile);
        let targets = problem.targets.as_ref().map(|targets| {
            let mut tile: LogitTile = [0.0; GROUP * BLOCK];
            targets.products(kernel, target_items, (first_column, width), &mut tile);
            (targets.scale2(), tile)
        });
        let mut rows = tile.chunks_exact_mut(BLOCK);
        for ((row, sum), values) in sums.iter_mut().enumerate().zip(&mut rows) {
            let (values, padding) = values.split_at_mut(width);
            padding.fill(0.0);
            if let (Some(options), Some(known)) = (&problem.options, self.known) {
                let i = first_row + row;
                if let Some((target_scale2, tile)) = &targets {
                    let of_target = &tile[row * BLOCK..][..width];
                    let scales2 = [scale2, *target_scale2];
                    let RowTerms { offsets2, gap2, .. } = known.terms[i];
                    kernel.weigh_targets(values, of_target, scales2, offsets2, gap2);
                    continue;
                }
                if let Some(found) = pointwise.get_mut(row) {
                    let mut sums = RowSums::ZERO;
                    let factor = known.terms[i].factor();
                    sums.add(problem, options, (i, first_column), values, factor);
                    *found = sums.to_pointwise();
                    continue;
                }
                options.weigh(kernel, (i, first_column), values, scale2, &known.terms[i]);
                continue;
            }
            let offset2 = match self.known {
                Some(known) => known.row_offset2[first_row + row],
                // The engine leaves statistics unknown only with a fixed offset.
                None => problem.fixed_offset2.unwrap_or(f32::NAN),
            };
            match self.known.and_then(|known| known.column_offset2.as_ref()) {
                None => *sum = kernel.exp_row(values, scale2, offset2),
                Some(columns) => {
                    let columns = &columns[first_column..first_column + width];
                    kernel.exp_row_both(values, scale2, offset2, columns);
                }
            }
        }
        if let Some(after) = rows.next() {
            after.fill(0.0);
        }
    }

    /// Appends the statistics of a chunk's rows.
    fn find_rows(&self, weights: &Weights, first_row: usize, rows: usize, to: &mut Vec<RowLogits>) {
        for row in 0..rows {
            let mut total = RowSums::ZERO;
            for block in weights.pointwise.chunks(weights.rows) {
                total.join(&RowSums::pointwise(block[row]));
            }
            to.push(total.logits(self.problem, first_row + row));
        }
    }

    /// Computes f_i and p_i of a chunk's rows, from known statistics or from the chunk's row sums.
    fn factors(
        &self,
        weights: &Weights,
        first_row: usize,
        rows: usize,
        (context, weights_of_rows): (&RowContext, Option<&[f64]>),
        outcome: &mut Outcome,
    ) -> Factors {
        let mut factors = Factors {
            softmax: Vec::with_capacity(rows),
            positive: Vec::with_capacity(rows),
        };
        let offset2 = self.problem.fixed_offset2.unwrap_or(f32::NAN);
        for row in 0..rows {
            let i = first_row + row;
            let (normaliser, positive_mass) = match self.known {
                Some(known) => (1.0, known.positive_mass[i]),
                None => {
                    let blocks = weights.sums.chunks(weights.rows);
                    let sum: f64 = blocks.map(|sums| f64::from(sums[row])).sum();
                    let lse = f64::from(offset2) * std::f64::consts::LN_2 + sum.ln();
                    outcome.negatives_lse.push(lse);
                    let positive = self.problem.positive_logits[i];
                    let logits = RowLogits::new(lse, positive);
                    let values = self.problem.contrast.rule().values(&logits, context);
                    let values = weights_of_rows.map_or(values, |w| values.weighted(w[i]));
                    outcome.scale_slopes += values.scale;
                    let share = values.negatives / sum;
                    (if sum == 0.0 { 0.0 } else { share }, values.positive)
                }
            };
            factors.softmax.push((self.coefficient * normaliser) as f32);
            factors
                .positive
                .push((self.coefficient * positive_mass) as f32);
        }
        factors
    }

    /// Computes dq of a chunk, in f32 in `sums`, then rounded in `dq`. Returns Σ⟨q_i, dq_i⟩ before rounding.
    fn anchor_gradients<G: Element>(
        &self,
        weights: &Weights,
        candidates: &Panels,
        factors: &Factors,
        first_row: usize,
        sums: &mut [f32],
        target: Target<'_, G>,
    ) -> f64 {
        let kernel = self.problem.kernel;
        let dim = self.problem.shape.dim;
        let row_stride = BLOCK / kernel.depth;
        let block_items = weights.rows * row_stride;
        let task = task_rows(factors.softmax.len());
        let sums = sums.chunks_mut(task * dim);
        let tasks: Vec<_> = match target {
            Target::Rounded(dq, stride) => {
                let dq = dq.chunks_mut(task * stride).map(|dq| Some((dq, stride)));
                sums.zip(dq).collect()
            }
            Target::Sums => sums.map(|sums| (sums, None)).collect(),
        };
        let dots: Vec<f64> = tasks
            .into_par_iter()
            .enumerate()
            .map(|(index, (sums, mut dq))| {
                let first = index * task;
                for (block, items) in weights.along.items().chunks(block_items).enumerate() {
                    let (first_column, width) = self.problem.block(block);
                    let left = Left {
                        items: &items[first * row_stride..],
                        rows: sums.len() / dim,
                        steps: width.div_ceil(kernel.depth),
                        row_stride,
                        step_stride: 1,
                    };
                    let right = candidates.at_step(first_column / kernel.depth);
                    let output = Output {
                        elements: sums,
                        columns: dim,
                        row_stride: dim,
                        accumulate: block > 0,
                    };
                    kernel.multiply(left, right, output);
                }
                let rows = sums.chunks_mut(dim).enumerate();
                let dots = rows.map(|(place, sums)| {
                    let row = first + place;
                    let (softmax, positive) = (factors.softmax[row], factors.positive[row]);
                    match self.problem.positive_row(first_row + row) {
                        Some(k) => {
                            for (sum, k) in sums.iter_mut().zip(k) {
                                *sum = softmax * *sum - positive * k.to_f32();
                            }
                        }
                        None => sums.iter_mut().for_each(|sum| *sum *= softmax),
                    }
                    let dot = kernel.dot(self.problem.q.row(first_row + row), sums);
                    if let Some((dq, stride)) = &mut dq {
                        store(
                            sums,
                            &mut dq[place * *stride..][..dim],
                            self.accumulate.anchors,
                        );
                    }
                    dot
                });
                dots.sum()
            })
            .collect();
        dots.iter().sum()
    }

    /// Adds the sums of a chunk's columns, times w_i·upstream, to `dbias`.
    fn add_to_bias(&self, weights: &Weights, first_row: usize, rows: usize, dbias: &mut Vec<f64>) {
        let problem = self.problem;
        let factor = self.coefficient / problem.scale;
        dbias.resize(problem.shape.candidates, 0.0);
        let groups = weights.rows / GROUP;
        for (block, sums) in weights.columns.chunks(groups * BLOCK).enumerate() {
            let (first, width) = problem.block(block);
            for group in sums.chunks(BLOCK).take(rows.div_ceil(GROUP)) {
                for (total, &sum) in dbias[first..first + width].iter_mut().zip(group) {
                    *total += factor * f64::from(sum);
                }
            }
        }
        let masses = self.known.map(|known| &known.positive_mass);
        for i in first_row..first_row + rows {
            if let (Some(j), Some(masses)) = (problem.positive(i), masses) {
                dbias[j] -= factor * masses[i];
            }
        }
    }

    /// Computes a chunk's contribution to dk; adds it to `dk` with `accumulate`.
    fn add_to_candidates(
        &self,
        weights: &Weights,
        scaled: &Panels,
        factors: &Factors,
        first_row: usize,
        dk: &mut [f32],
        accumulate: bool,
    ) {
        let problem = self.problem;
        let kernel = problem.kernel;
        let dim = problem.shape.dim;
        let rows = factors.softmax.len();
        let all_items = match kernel.depth {
            1 => weights.along.items(),
            _ => weights.across.items(),
        };
        let block_items = weights.rows * BLOCK / kernel.depth;
        // Sorted by column, then row: positives are subtracted in that order.
        let mut positives: Vec<(usize, usize)> = (0..rows)
            .filter_map(|row| {
                let positive = problem.positive(first_row + row);
                positive.map(|column| (column, row))
            })
            .collect();
        positives.sort_unstable();
        let task = task_rows(problem.shape.candidates);
        dk.par_chunks_mut(task * dim)
            .enumerate()
            .for_each(|(index, dk)| {
                let first_column = index * task;
                let columns = dk.len() / dim;
                let block_items = first_column / BLOCK * block_items..;
                match all_items.get(block_items).filter(|items| !items.is_empty()) {
                    Some(items) => {
                        let left = Left {
                            items: &items[first_column % BLOCK..],
                            rows: columns,
                            steps: rows.div_ceil(kernel.depth),
                            row_stride: 1,
                            step_stride: BLOCK,
                        };
                        let output = Output {
                            elements: dk,
                            columns: dim,
                            row_stride: dim,
                            accumulate,
                        };
                        kernel.multiply(left, scaled.at_panel(0), output);
                    }
                    // The rule has positives alone.
                    None if !accumulate => dk.fill(0.0),
                    None => {}
                }
                let border = |column| positives.partition_point(|&(j, _)| j < column);
                let own = border(first_column)..border(first_column + columns);
                for &(j, row) in &positives[own] {
                    let positive = factors.positive[row];
                    let target = &mut dk[(j - first_column) * dim..][..dim];
                    for (target, q) in target.iter_mut().zip(problem.q.row(first_row + row)) {
                        *target -= positive * q.to_f32();
                    }
                }
            });
    }
}

/// Where a chunk's dq goes.
enum Target<'a, G> {
    /// Rounded, into rows so many elements apart.
    Rounded(&'a mut [G], usize),
    /// It stays in f32 in the sums.
    Sums,
}

/// The sums of a tile's columns; nothing where they are not wanted.
fn sum_columns(tile: &[f32], columns: &mut [f32]) {
    if columns.is_empty() {
        return;
    }
    columns.fill(0.0);
    for row in tile.chunks(BLOCK) {
        columns.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
}

/// Factors of one chunk's rows.
struct Factors {
    /// f_i, of the softmax weights.
    softmax: Vec<f32>,
    /// p_i, of the positive.
    positive: Vec<f32>,
}

/// Rounds `row` into `to`; with `accumulate` it first adds the contents of `to` to `row`.
pub(super) fn store<G: Element>(row: &mut [f32], to: &mut [G], accumulate: bool) {
    if accumulate {
        for (sum, there) in row.iter_mut().zip(&*to) {
            *sum += there.to_f32();
        }
    }
    G::narrow(row, to);
}

/// Calls `run` with the gradient as f32 without gaps: the gradient itself where it is that, else a buffer, which
/// is then rounded into the gradient or added to it.
fn with_f32<G: Element>(
    gradient: Option<RowsMut<'_, G>>,
    accumulate: bool,
    run: impl FnOnce(Option<&mut [f32]>),
) {
    let Some(gradient) = gradient else {
        return run(None);
    };
    let (rows, dim) = (gradient.rows(), gradient.dim());
    let (to, stride) = gradient.into_data();
    if G::DTYPE == DType::F32 && stride == dim && !accumulate {
        return run(Some(bytemuck::cast_slice_mut(to)));
    }
    let mut buffer = vec![0.0; rows * dim];
    run(Some(&mut buffer));
    for (row, to) in buffer.chunks_mut(dim).zip(to.chunks_mut(stride)) {
        store(row, &mut to[..dim], accumulate);
    }
}
