//! The CPU engine: matrix products of packed operands with the softmax fused in, parallel by rayon.
//!
//! The shape and the weights budget alone determine blocks and chunks, and one task computes each sum in a fixed
//! order. Results are therefore bitwise equal for every number of threads.

mod blocks;
mod gradient_pass;
mod option_statistics;
mod options;
mod pack;
mod problem;
mod rowwise;
mod scaled_sum;
mod simd;
mod statistics_pass;
mod targets;
mod top_k;
mod triplet;

#[cfg(test)]
mod tests;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::contrast::{Contrast, Shape, same_dim, same_length, same_rows};
use crate::element::{DType, Element};
use crate::engine::{Engine, MomentumSlices};
use crate::error::{Error, positive};
use crate::gradients::Gradients;
use crate::losses::RowLogits;
use crate::memory::{Evaluated, HostMemory, TopK};
use crate::queue::KeyQueue;
use crate::rows::{Matrix, Rows, RowsMut};
use crate::statistics::{RowStatistics, SetStatistics, Statistics};
use crate::triplet::TripletProblem;
use blocks::BLOCK;
use gradient_pass::{GradientPass, Known, Outcome, chunk_rows, store};
use pack::Workspace;
use problem::{Problem, kernel_for};
pub(crate) use simd::Kernel;
use statistics_pass::{Summaries, summaries};

/// Computes on the CPU with AVX-512, AVX2 or portable kernels, chosen at run time.
///
/// bf16 inputs are multiplied as bf16 (f32 accumulation) where the CPU has `avx512_bf16`, and widened to f32
/// elsewhere; f16 inputs are always widened.
///
/// An engine keeps the memory of its largest call for later calls until it is dropped.
#[derive(Debug, Default)]
pub struct CpuEngine {
    /// `None`: the thread pool of the caller, or rayon's global one.
    pool: Option<ThreadPool>,
    weights_budget: Option<usize>,
    workspace: Workspace,
    /// `None`: the kernel for the inputs' type. Tests set another.
    kernel: Option<&'static Kernel>,
}

/// Default bytes for the softmax weights of one chunk of rows: few enough for the L3 cache, but large chunks, because
/// each chunk reads and writes dk once.
const WEIGHTS_BUDGET: usize = 24 << 20;

impl CpuEngine {
    /// An engine on the caller's thread pool: rayon's global one, unless the caller runs inside another.
    pub fn new() -> Self {
        Self::default()
    }

    /// An engine with `threads` threads of its own.
    ///
    /// # Errors
    /// [`Error::Threads`] when `threads` is 0 or the operating system refuses.
    pub fn with_threads(threads: usize) -> Result<Self, Error> {
        let refused = |reason: String| Error::Threads {
            given: threads,
            reason,
        };
        if threads == 0 {
            return Err(refused("at least 1 is needed".into()));
        }
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|error| refused(error.to_string()))?;
        Ok(Self {
            pool: Some(pool),
            ..Self::default()
        })
    }

    /// Sets how many bytes a chunk of softmax weights may take (default 24 MiB). A chunk has at least 48 rows,
    /// so the least is 192·M bytes. The budget sets the order of sums, so last bits may differ between budgets.
    #[must_use]
    pub fn with_weights_budget(mut self, bytes: usize) -> Self {
        self.weights_budget = Some(bytes);
        self
    }

    /// The CPU's microkernels and the number of threads, as `infonce info` prints them.
    pub fn describe(&self) -> String {
        let threads = self.run(rayon::current_num_threads);
        format!(
            "{} for f32 and f16, {} for bf16, {threads} threads",
            kernel_for::<f32>().name,
            kernel_for::<half::bf16>().name,
        )
    }

    /// An upper bound of the bytes that [`value_and_grad`](Engine::value_and_grad) of a contrast needs beyond inputs and
    /// outputs: O((N+M)·D) plus the budget. `T` is the inputs' type, `G` the gradients'. Targets have rows of D elements,
    /// too. An f32 dk that accumulates, or has gaps between its rows, takes 4·M·D more.
    pub fn workspace_bytes<T: Element, G: Element>(
        &self,
        contrast: &Contrast,
        shape: Shape,
        dk: bool,
    ) -> usize {
        let kernel = kernel_for::<T>();
        let Shape {
            anchors,
            candidates,
            dim,
        } = shape;
        let item = size_of::<simd::Item>();
        let steps = dim.div_ceil(kernel.depth);
        let chunk = chunk_rows(self.budget(), anchors, candidates);
        let blocks = candidates.div_ceil(BLOCK);

        let mut panels = pack::panel_items(kernel, candidates, steps)
            + pack::panel_items(kernel, dim, candidates.div_ceil(kernel.depth));
        let has_targets = contrast.rule().target_scale().is_some();
        if has_targets {
            // p packed, its biases, and a chunk's rows of u, copied and as items.
            panels += pack::panel_items(kernel, candidates, steps) + candidates;
            panels += chunk * (dim + 2 * steps);
        }
        let weights = blocks * chunk * (BLOCK + 4);
        // Of each row: dq before rounding, the packed anchor, two factors, and the positive's column and row.
        let mut chunk_items = chunk * (dim + steps + 6);
        if dk {
            chunk_items += pack::panel_items(kernel, dim, chunk.div_ceil(kernel.depth));
        }
        if dk && G::DTYPE != DType::F32 {
            chunk_items += candidates * dim;
        }
        // Partial sums of the statistics (16 bytes each), and at most twelve f64 for every row and column.
        let statistics =
            16 * blocks * statistics_pass::CHUNK.min(anchors) + 96 * (anchors + candidates);
        let mut per_thread = 2 * size_of::<blocks::LogitTile>() + 64 * 1024;
        if has_targets {
            // Rows of u of a task of the statistics.
            per_thread += option_statistics::TASK * (4 * dim + 2 * item * steps);
        }
        let threads = self.run(rayon::current_num_threads);
        item * (panels + weights + chunk_items) + statistics + threads * per_thread
    }

    /// Replaces the microkernel that the engine would choose.
    #[cfg(test)]
    pub(crate) fn with_kernel(mut self, kernel: &'static Kernel) -> Self {
        self.kernel = Some(kernel);
        self
    }

    fn kernel<T: Element>(&self) -> &'static Kernel {
        self.kernel.unwrap_or_else(kernel_for::<T>)
    }

    fn budget(&self) -> usize {
        self.weights_budget.unwrap_or(WEIGHTS_BUDGET)
    }

    fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(work),
            // Enters the pool once, instead of once for every parallel loop.
            None => rayon::scope(|_| work()),
        }
    }

    fn gradient<T: Element, G: Element>(
        &self,
        problem: &Problem<'_, T>,
        (known, finds_rows): (Option<&Known>, bool),
        upstream: f32,
        mut gradients: Gradients<RowsMut<'_, G>>,
    ) -> (Outcome, f32) {
        let contrast = problem.contrast;
        let scale = problem.scale;
        let weight = f64::from(upstream) * contrast.row_weight(problem.shape.anchors);
        let pass = GradientPass {
            problem,
            known,
            accumulate: gradients.accumulate,
            coefficient: weight * scale,
            budget: self.budget(),
            with_bias: gradients.dbias.is_some(),
            finds_rows,
        };
        let outcome = pass.run(gradients.dq, gradients.dk);
        if let Some(dbias) = gradients.dbias.take() {
            let of_one = [outcome.dbias.iter().sum()];
            let found = match contrast.rule().is_pointwise() {
                true => &of_one[..],
                false => &outcome.dbias,
            };
            let mut row: Vec<f32> = found.iter().map(|&x| x as f32).collect();
            let (to, _) = dbias.into_data();
            let biases = row.len();
            store(&mut row, &mut to[..biases], gradients.accumulate.candidates);
        }
        // ∂loss/∂s = (f/s)·Σ⟨q_i, dq_i⟩ + Σ w_i·∂φ/∂s, f = `dots_factor`; with options dq_i lacks what row i has as a
        // candidate.
        let factor = match problem.options {
            Some(_) => 1.0,
            None => contrast.dots_factor(),
        };
        let mut dscale = factor * outcome.anchors_dot_gradient / scale;
        if contrast.rule().depends_on_scale() {
            dscale += weight * outcome.scale_slopes;
        }
        (outcome, dscale as f32)
    }
}

fn evaluated<T: Element>(
    problem: &Problem<'_, T>,
    summaries: &Summaries,
    dscale: f32,
) -> Evaluated {
    let contrast = problem.contrast;
    let statistics = |rows: &Vec<RowLogits>| {
        let narrow = |of: fn(&RowLogits) -> f64| rows.iter().map(|row| of(row) as f32).collect();
        RowStatistics {
            negatives_lse: narrow(|row| row.negatives_lse),
            positive: narrow(|row| row.positive),
            second_lse: match problem.targets.is_some() || contrast.rule().exponents().is_some() {
                true => narrow(|row| row.second_lse),
                false => Vec::new(),
            },
            target_mean: match problem.targets {
                Some(_) => narrow(|row| row.negatives_mean),
                None => Vec::new(),
            },
            sets: contrast.has_sets().then(|| SetStatistics {
                positives_lse: narrow(|row| row.second_lse),
                positives: narrow(|row| row.positives),
                negatives_mean: narrow(|row| row.negatives_mean),
                negatives: narrow(|row| row.negatives),
            }),
        }
    };
    let statistics = Statistics {
        rows: statistics(&summaries.rows),
        columns: summaries.columns.as_ref().map(statistics),
    };
    let context = problem.context(&problem.positive_logits);
    Evaluated {
        loss: statistics.loss_in(contrast, &context, problem.row_weights),
        dscale,
        statistics,
    }
}

impl Engine for CpuEngine {
    type Memory = HostMemory;

    fn memory(&self) -> &HostMemory {
        &HostMemory
    }

    fn forward<T: Element>(
        &self,
        problem: &crate::problem::Problem<Rows<'_, T>>,
    ) -> Result<Evaluated, Error> {
        self.run(|| {
            let problem = Problem::new(self.kernel::<T>(), problem, &self.workspace)?;
            Ok(evaluated(&problem, &summaries(&problem), 0.0))
        })
    }

    fn value_and_grad<T: Element, G: Element>(
        &self,
        problem: &crate::problem::Problem<Rows<'_, T>>,
        upstream: f32,
        gradients: Gradients<RowsMut<'_, G>>,
    ) -> Result<Evaluated, Error> {
        problem.check_gradients(&gradients)?;
        self.run(|| {
            let problem = Problem::new(self.kernel::<T>(), problem, &self.workspace)?;
            let is_bounded = problem.fixed_offset2.is_some() && problem.options.is_none();
            let rule = problem.contrast.rule();
            let is_one_way = problem.contrast.is_one_way() && !rule.is_alignment();
            let (summaries, dscale) = if is_one_way && is_bounded {
                let (outcome, dscale) = self.gradient(&problem, (None, false), upstream, gradients);
                let rows = &outcome.negatives_lse;
                let summaries = Summaries::new(rows, None, &problem.positive_logits);
                (summaries, dscale)
            } else if rule.is_pointwise() {
                // Masses depend on the rows' weights alone, and on whether inputs are finite.
                let unknown = vec![0.0; problem.shape.anchors];
                let unknown = Summaries::new(&unknown, None, &problem.positive_logits);
                let known = (Some(&Known::new(&problem, &unknown)), true);
                let (outcome, dscale) = self.gradient(&problem, known, upstream, gradients);
                let (rows, columns) = (outcome.rows, None);
                (Summaries { rows, columns }, dscale)
            } else {
                let summaries = summaries(&problem);
                let known = (Some(&Known::new(&problem, &summaries)), false);
                let (_, dscale) = self.gradient(&problem, known, upstream, gradients);
                (summaries, dscale)
            };
            Ok(evaluated(&problem, &summaries, dscale))
        })
    }

    fn backward<T: Element, G: Element>(
        &self,
        problem: &crate::problem::Problem<Rows<'_, T>>,
        statistics: &Statistics,
        upstream: f32,
        gradients: Gradients<RowsMut<'_, G>>,
    ) -> Result<f32, Error> {
        problem.check_gradients(&gradients)?;
        statistics.check(problem.contrast(), problem.shape())?;
        let columns = statistics.columns.as_ref();
        let columns = columns.filter(|_| problem.contrast().has_columns());
        let given = |rows: &RowStatistics| (0..rows.len()).map(|i| rows.logits(i)).collect();
        let mut summaries = Summaries {
            rows: given(&statistics.rows),
            columns: columns.map(given),
        };
        self.run(|| {
            let problem = Problem::new(self.kernel::<T>(), problem, &self.workspace)?;
            // Merged statistics have z₊ of a positive in another shard; the problem has not.
            let rows = summaries
                .rows
                .iter_mut()
                .chain(summaries.columns.iter_mut().flatten());
            for (row, &here) in rows.zip(problem.positive_logits.iter().cycle()) {
                if here != f64::NEG_INFINITY {
                    row.positive = here;
                }
            }
            let known = (Some(&Known::new(&problem, &summaries)), false);
            let (_, dscale) = self.gradient(&problem, known, upstream, gradients);
            Ok(dscale)
        })
    }

    fn merge(&self, statistics: &mut Statistics, others: &Statistics) -> Result<(), Error> {
        statistics.merge(others)
    }

    fn top_k<T: Element>(
        &self,
        queries: Rows<'_, T>,
        candidates: Rows<'_, T>,
        k: usize,
        exclude_self: bool,
    ) -> Result<TopK, Error> {
        same_dim("candidates", candidates.dim(), queries.dim())?;
        let fewest = candidates.rows() - usize::from(exclude_self);
        if k == 0 || k > fewest {
            return Err(Error::TopK {
                given: k,
                available: fewest,
            });
        }
        Ok(self.run(|| top_k::top_k(queries, candidates, k, exclude_self, &self.workspace)))
    }

    fn triplet<T: Element, G: Element>(
        &self,
        problem: &TripletProblem<Rows<'_, T>>,
        upstream: f32,
        gradients: Gradients<RowsMut<'_, G>>,
    ) -> Result<f32, Error> {
        problem.check_gradients(&gradients)?;
        Ok(self.run(|| triplet::triplet(problem, upstream, gradients)))
    }

    fn normalize<T: Element, O: Element>(
        &self,
        x: Rows<'_, T>,
        y: RowsMut<'_, O>,
        norms: &mut [f32],
        epsilon: f32,
    ) -> Result<(), Error> {
        positive("epsilon", epsilon)?;
        same_rows("y", y.rows(), x.rows())?;
        same_dim("y", y.dim(), x.dim())?;
        same_rows("norms", norms.len(), x.rows())?;
        self.run(|| rowwise::normalize(x, y, norms, epsilon));
        Ok(())
    }

    fn normalize_backward<T: Element, G: Element>(
        &self,
        y: Rows<'_, T>,
        norms: &[f32],
        dy: Rows<'_, G>,
        dx: RowsMut<'_, G>,
        epsilon: f32,
    ) -> Result<(), Error> {
        positive("epsilon", epsilon)?;
        same_rows("norms", norms.len(), y.rows())?;
        for (argument, rows, dim) in [("dy", dy.rows(), dy.dim()), ("dx", dx.rows(), dx.dim())] {
            same_rows(argument, rows, y.rows())?;
            same_dim(argument, dim, y.dim())?;
        }
        self.run(|| rowwise::normalize_backward(y, norms, dy, dx, epsilon));
        Ok(())
    }

    fn momentum_update<T: Element>(
        &self,
        momentum: f32,
        tensors: &mut [MomentumSlices<'_, T>],
    ) -> Result<(), Error> {
        crate::momentum::check(momentum)?;
        for tensor in &*tensors {
            let expected = tensor.key.len();
            let shadow = tensor.shadow.as_ref().map_or(expected, |s| s.len());
            same_length("query", tensor.query.len(), expected)?;
            same_length("shadow", shadow, expected)?;
        }
        self.run(|| rowwise::momentum_update(momentum, tensors));
        Ok(())
    }

    fn update_rows<T: Element>(
        &self,
        bank: RowsMut<'_, T>,
        rows: &[u32],
        keys: Rows<'_, T>,
        momentum: f32,
    ) -> Result<(), Error> {
        crate::momentum::check(momentum)?;
        same_dim("keys", keys.dim(), bank.dim())?;
        same_rows("rows", rows.len(), keys.rows())?;
        crate::bank::check_rows("rows", rows, bank.rows())?;
        self.run(|| rowwise::update_rows(bank, rows, keys, momentum));
        Ok(())
    }

    fn enqueue<T: Element>(&self, queue: &mut KeyQueue<T>, keys: Rows<'_, T>) -> Result<(), Error> {
        queue.push(keys, None)
    }

    fn enqueue_labelled<T: Element>(
        &self,
        queue: &mut KeyQueue<T>,
        keys: Rows<'_, T>,
        labels: &[u32],
    ) -> Result<(), Error> {
        queue.push(keys, Some(labels))
    }
}
