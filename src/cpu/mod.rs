//! The CPU engine: prepacked matrix products with the softmax fused in, over rayon.
//!
//! All work is cut into blocks whose borders depend on the shape alone, each sum is taken by one
//! task in a fixed order, and so results are bitwise equal for every number of threads.

mod gradient_pass;
mod pack;
mod problem;
mod rowwise;
mod simd;
mod statistics_pass;
mod top_k;

#[cfg(test)]
mod tests;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::contrast::{Contrast, Form, Inputs, Shape, same_dim, same_rows};
use crate::element::{DType, Element};
use crate::engine::{Engine, Forward, Gradients, MomentumSlices, TopK, ValueAndGrad};
use crate::error::{Error, positive};
use crate::queue::KeyQueue;
use crate::rows::{Matrix, Rows, RowsMut};
use crate::statistics::{RowStatistics, Statistics};
use gradient_pass::{GradientPass, Outcome, Softmax, chunk_rows, sigmoid};
use pack::Workspace;
use problem::{BLOCK, Problem, kernel_for};
use simd::Kernel;
use statistics_pass::{NegativesLse, negatives_lse};

/// Computes on the processor's cores, with AVX-512, AVX2 or portable kernels, chosen at run time.
///
/// bf16 inputs are multiplied as bf16 (f32 accumulation) where the processor has `avx512_bf16`, and
/// widened to f32 elsewhere; f16 inputs are always widened.
///
/// An engine keeps the memory of its largest call for the calls after it, until it is dropped.
#[derive(Debug, Default)]
pub struct CpuEngine {
    /// `None`: the thread pool of the caller, or rayon's global one.
    pool: Option<ThreadPool>,
    weights_budget: Option<usize>,
    workspace: Workspace,
}

/// Bytes for the softmax weights of one chunk of rows, unless the caller declares another budget:
/// few enough for a server core's share of the third-level cache to help, enough rows to pay for
/// reading and writing dk once a chunk.
const WEIGHTS_BUDGET: usize = 24 << 20;

impl CpuEngine {
    /// An engine on the thread pool it is called from: rayon's global one, unless the caller runs
    /// inside another.
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

    /// Declares how many bytes a chunk of softmax weights may take (default 24 MiB). At least one
    /// group of 48 rows is always kept, so the least is 192·M bytes. Results depend on it by rounding.
    #[must_use]
    pub fn with_weights_budget(mut self, bytes: usize) -> Self {
        self.weights_budget = Some(bytes);
        self
    }

    /// The microkernels in use here and the number of threads, for people to read.
    pub fn describe(&self) -> String {
        let threads = self.run(rayon::current_num_threads);
        format!(
            "{} for f32 and f16, {} for bf16, {threads} threads",
            kernel_for::<f32>().name,
            kernel_for::<half::bf16>().name,
        )
    }

    /// Bytes that [`value_and_grad`](Engine::value_and_grad) needs beyond inputs and outputs: a
    /// bound that depends on the shape, the input type `T`, the gradient type `G`, whether dk is
    /// wanted and the declared budget, not on the machine's free memory. O((N+M)·D) plus the budget.
    pub fn workspace_bytes<T: Element, G: Element>(&self, shape: Shape, dk: bool) -> usize {
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

        let panels = pack::panel_items(kernel, candidates, steps)
            + pack::panel_items(kernel, dim, candidates.div_ceil(kernel.depth));
        let weights = blocks * chunk * (BLOCK + 1);
        let chunk_rows = chunk * (dim + steps + 6)
            + if dk {
                pack::panel_items(kernel, dim, chunk.div_ceil(kernel.depth))
            } else {
                0
            };
        let rounded_dk = if dk && G::DTYPE != DType::F32 {
            candidates * dim
        } else {
            0
        };
        // Partial sums of the statistics, and a dozen numbers of 8 bytes for every row and column.
        let statistics =
            16 * blocks * statistics_pass::CHUNK.min(anchors) + 96 * (anchors + candidates);
        let per_thread = 2 * size_of::<problem::LogitTile>() + 64 * 1024;
        let threads = self.run(rayon::current_num_threads);
        item * (panels + weights + chunk_rows + rounded_dk) + statistics + threads * per_thread
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
        softmax: Option<&Softmax>,
        upstream: f32,
        gradients: Gradients<RowsMut<'_, G>>,
    ) -> (Outcome, f32) {
        let contrast = problem.contrast;
        let scale = f64::from(contrast.scale());
        let pass = GradientPass {
            problem,
            softmax,
            coefficient: f64::from(upstream) * contrast.row_weight(problem.shape.anchors) * scale,
            budget: self.budget(),
        };
        let outcome = pass.run(
            gradients.dq.into_slice(),
            gradients.dk.map(RowsMut::into_slice),
        );
        // ∂loss/∂s = (1/s) Σ ⟨q_i, dq_i⟩; for NT-Xent every logit moves two rows of z.
        let shared = if contrast.form == Form::NtXent {
            0.5
        } else {
            1.0
        };
        let dscale = shared * outcome.anchors_dot_gradient / scale;
        (outcome, dscale as f32)
    }

    fn value_and_grad_with<T: Element, G: Element>(
        &self,
        kernel: &'static Kernel,
        contrast: &Contrast,
        inputs: &Inputs<Rows<'_, T>>,
        upstream: f32,
        gradients: Gradients<RowsMut<'_, G>>,
    ) -> Result<ValueAndGrad, Error> {
        let shape = contrast.check(inputs)?;
        contrast.check_gradients(shape, &gradients.dq, gradients.dk.as_ref())?;
        Ok(self.run(|| {
            let problem = Problem::new(kernel, contrast, shape, inputs, &self.workspace);
            let one_way = matches!(contrast.form, Form::InfoNce(_) | Form::Moco);
            let (lse, dscale) = if one_way && problem.fixed_offset2.is_some() {
                let (outcome, dscale) = self.gradient(&problem, None, upstream, gradients);
                let rows = outcome.negatives_lse;
                (
                    NegativesLse {
                        rows,
                        columns: None,
                    },
                    dscale,
                )
            } else {
                let lse = negatives_lse(&problem);
                let softmax = Softmax::new(&problem, &lse.rows, lse.columns.as_deref());
                let (_, dscale) = self.gradient(&problem, Some(&softmax), upstream, gradients);
                (lse, dscale)
            };
            let (loss, statistics) = loss_and_statistics(&problem, &lse);
            ValueAndGrad {
                loss,
                dscale,
                statistics,
            }
        }))
    }

    fn backward_with<T: Element, G: Element>(
        &self,
        kernel: &'static Kernel,
        contrast: &Contrast,
        inputs: &Inputs<Rows<'_, T>>,
        statistics: &Statistics,
        upstream: f32,
        gradients: Gradients<RowsMut<'_, G>>,
    ) -> Result<f32, Error> {
        let shape = contrast.check(inputs)?;
        contrast.check_gradients(shape, &gradients.dq, gradients.dk.as_ref())?;
        statistics.check(contrast, shape)?;
        let columns = match &statistics.columns {
            Some(columns) if contrast.is_symmetric() => Some(widen(&columns.negatives_lse)),
            _ => None,
        };
        let rows = widen(&statistics.rows.negatives_lse);
        Ok(self.run(|| {
            let problem = Problem::new(kernel, contrast, shape, inputs, &self.workspace);
            let softmax = Softmax::new(&problem, &rows, columns.as_deref());
            self.gradient(&problem, Some(&softmax), upstream, gradients)
                .1
        }))
    }

    fn forward_with<T: Element>(
        &self,
        kernel: &'static Kernel,
        contrast: &Contrast,
        inputs: &Inputs<Rows<'_, T>>,
    ) -> Result<Forward, Error> {
        let shape = contrast.check(inputs)?;
        Ok(self.run(|| {
            let problem = Problem::new(kernel, contrast, shape, inputs, &self.workspace);
            let (loss, statistics) = loss_and_statistics(&problem, &negatives_lse(&problem));
            Forward { loss, statistics }
        }))
    }
}

fn widen(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&x| f64::from(x)).collect()
}

impl Softmax {
    /// From lse⁻ of every row (and column), in nats.
    fn new<T: Element>(problem: &Problem<'_, T>, rows: &[f64], columns: Option<&[f64]>) -> Self {
        let positive = &problem.positive_logits;
        let lse2 = |negatives: &[f64]| -> Vec<f32> {
            let full = negatives.iter().zip(positive).map(|(&lse, &z)| {
                // log(eˡˢᵉ + eᶻ) = z + softplus(lse − z)
                let softplus = (lse - z).max(0.0) + (-(lse - z).abs()).exp().ln_1p();
                ((z + softplus) * std::f64::consts::LOG2_E) as f32
            });
            full.collect()
        };
        let sigma = |negatives: &[f64], i: usize| sigmoid(negatives[i] - positive[i]);
        // Columns have a loss in CLIP (positive of row i: column i), and in NT-Xent, where the
        // column of the positive is a row of the same matrix.
        let paired = problem.contrast.form == Form::NtXent;
        let other = if paired { Some(rows) } else { columns };
        let one_minus_positive = (0..rows.len()).map(|i| {
            let partner = problem.contrast.positive(i, problem.shape).unwrap_or(i);
            sigma(rows, i) + other.map_or(0.0, |other| sigma(other, partner))
        });
        Self {
            one_minus_positive: one_minus_positive.collect(),
            column_lse2: other.map(lse2),
            row_lse2: lse2(rows),
        }
    }
}

fn loss_and_statistics<T: Element>(
    problem: &Problem<'_, T>,
    lse: &NegativesLse,
) -> (f32, Statistics) {
    let narrow = |numbers: &[f64]| numbers.iter().map(|&x| x as f32).collect::<Vec<_>>();
    let statistics = |negatives: &[f64]| RowStatistics {
        negatives_lse: narrow(negatives),
        positive: narrow(&problem.positive_logits),
    };
    let statistics = Statistics {
        rows: statistics(&lse.rows),
        columns: lse.columns.as_deref().map(statistics),
    };
    let total = statistics.rows.total() + statistics.columns.as_ref().map_or(0.0, |c| c.total());
    let loss = total * problem.contrast.row_weight(problem.shape.anchors);
    (loss as f32, statistics)
}

impl Engine for CpuEngine {
    type Matrix<'a, T: Element> = Rows<'a, T>;
    type MatrixMut<'a, T: Element> = RowsMut<'a, T>;
    type Vector<'a, T: Element> = &'a [T];
    type VectorMut<'a, T: Element> = &'a mut [T];
    type Queue<T: Element> = KeyQueue<T>;

    fn forward<T: Element>(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<Rows<'_, T>>,
    ) -> Result<Forward, Error> {
        self.forward_with(kernel_for::<T>(), contrast, inputs)
    }

    fn value_and_grad<T: Element, G: Element>(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<Rows<'_, T>>,
        upstream: f32,
        gradients: Gradients<RowsMut<'_, G>>,
    ) -> Result<ValueAndGrad, Error> {
        self.value_and_grad_with(kernel_for::<T>(), contrast, inputs, upstream, gradients)
    }

    fn backward<T: Element, G: Element>(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<Rows<'_, T>>,
        statistics: &Statistics,
        upstream: f32,
        gradients: Gradients<RowsMut<'_, G>>,
    ) -> Result<f32, Error> {
        let kernel = kernel_for::<T>();
        self.backward_with(kernel, contrast, inputs, statistics, upstream, gradients)
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
        self.run(|| rowwise::normalize(x.as_slice(), y.into_slice(), norms, x.dim(), epsilon));
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
        let (dim, y, dy, dx) = (y.dim(), y.as_slice(), dy.as_slice(), dx.into_slice());
        self.run(|| rowwise::normalize_backward(y, norms, dy, dx, dim, epsilon));
        Ok(())
    }

    fn momentum_update<'a, T: Element>(
        &self,
        momentum: f32,
        tensors: &mut [MomentumSlices<'a, T>],
    ) -> Result<(), Error> {
        crate::momentum::check(momentum)?;
        for tensor in &*tensors {
            let expected = tensor.key.len();
            let shadow = tensor.shadow.as_ref().map_or(expected, |s| s.len());
            for (argument, given) in [("query", tensor.query.len()), ("shadow", shadow)] {
                if given != expected {
                    return Err(Error::Length {
                        argument,
                        given,
                        expected,
                    });
                }
            }
        }
        self.run(|| rowwise::momentum_update(momentum, tensors));
        Ok(())
    }

    fn enqueue<T: Element>(&self, queue: &mut KeyQueue<T>, keys: Rows<'_, T>) -> Result<(), Error> {
        queue.push(keys)
    }
}
