//! Linear probe: how well a linear classifier separates the labels on frozen features.
//!
//! Multinomial logistic regression with L2 on standardised features,
//! ```text
//! f(W, b) = (1/N) Σ_i ( log Σ_c exp z_ic − z_{i,y_i} ) + (λ/2)‖W‖²,   z_ic = ⟨w_c, x_i⟩ + b_c
//! ```
//! minimised over the whole training set by L-BFGS (Nocedal & Wright 2006, algorithm 7.4) with
//! backtracking. The problem is convex, so that neither a learning rate nor a seed enters, and
//! sums run over a fixed partition: the result is the same for any number of threads.

use std::collections::VecDeque;

use rayon::prelude::*;

use super::knn::Labelled;
use crate::Matrix;

/// λ, the weight of ‖W‖²/2 against the mean loss.
pub const WEIGHT_DECAY: f64 = 1e-3;
/// Pairs of steps and gradient changes that L-BFGS remembers.
const MEMORY: usize = 10;
/// L-BFGS stops here at the latest.
const MAXIMUM_ITERATIONS: usize = 300;
/// L-BFGS stops when the largest gradient entry is below this.
const GRADIENT_TOLERANCE: f64 = 1e-4;
/// Armijo's constant: the share of the predicted decrease that a step must reach.
const SUFFICIENT_DECREASE: f64 = 1e-4;
/// Rows per unit of parallel work; fixed, because sums are combined in this partition's order.
const CHUNK: usize = 256;
/// Features that vary less than this are constant and become 0.
const SMALLEST_DEVIATION: f64 = 1e-8;

/// The share of held-out images that a linear classifier fitted to the training features labels
/// correctly, between 0 and 1.
///
/// Both sets must have the same feature dimension; labels from 0 up.
pub fn accuracy(train: Labelled<'_>, test: Labelled<'_>) -> f64 {
    debug_assert_eq!(train.features.dim(), test.features.dim());
    let standardise = Standardisation::of(train);
    let classes = train
        .labels
        .iter()
        .max()
        .map_or(1, |&label| label as usize + 1);
    let problem = Problem {
        features: standardise.apply(train),
        labels: train.labels,
        dim: train.features.dim(),
        classes,
    };
    let parameters = minimise(&problem);
    let test_problem = Problem {
        features: standardise.apply(test),
        labels: test.labels,
        ..problem
    };
    super::share_equal(&test_problem.predict(&parameters), test.labels)
}

/// Mean and standard deviation of each training feature.
struct Standardisation {
    mean: Vec<f64>,
    inverse_deviation: Vec<f64>,
}

impl Standardisation {
    fn of(train: Labelled<'_>) -> Self {
        let (rows, dim) = (train.features.rows() as f64, train.features.dim());
        let mut mean = vec![0.0f64; dim];
        for row in train.features.contiguous().chunks_exact(dim) {
            for (sum, &value) in mean.iter_mut().zip(row) {
                *sum += f64::from(value) / rows;
            }
        }
        let mut variance = vec![0.0f64; dim];
        for row in train.features.contiguous().chunks_exact(dim) {
            for ((sum, &value), centre) in variance.iter_mut().zip(row).zip(&mean) {
                *sum += (f64::from(value) - centre).powi(2) / rows;
            }
        }
        let inverse_deviation = variance
            .iter()
            .map(|&variance| match variance.sqrt() {
                deviation if deviation > SMALLEST_DEVIATION => 1.0 / deviation,
                _ => 0.0,
            })
            .collect();
        Self {
            mean,
            inverse_deviation,
        }
    }

    fn apply(&self, data: Labelled<'_>) -> Vec<f32> {
        let mut standardised = data.features.contiguous().into_owned();
        for row in standardised.chunks_exact_mut(self.mean.len()) {
            for ((value, mean), inverse) in
                row.iter_mut().zip(&self.mean).zip(&self.inverse_deviation)
            {
                *value = ((f64::from(*value) - mean) * inverse) as f32;
            }
        }
        standardised
    }
}

/// Standardised features with labels. Parameters are one row of `dim` weights and a bias per
/// class, classes × (dim + 1).
struct Problem<'a> {
    features: Vec<f32>,
    labels: &'a [u32],
    dim: usize,
    classes: usize,
}

impl Problem<'_> {
    /// Writes the logits of one image.
    fn logits(&self, parameters: &[f32], image: &[f32], logits: &mut [f32]) {
        for (logit, row) in logits.iter_mut().zip(parameters.chunks_exact(self.dim + 1)) {
            *logit = dot(&row[..self.dim], image) + row[self.dim];
        }
    }

    /// f and its gradient. Products are f32, sums over images f64 from chunk to chunk.
    fn value_and_gradient(&self, parameters: &[f64], gradient: &mut [f64]) -> f64 {
        let weights: Vec<f32> = parameters.iter().map(|&value| value as f32).collect();
        let partial: Vec<(f64, Vec<f32>)> = self
            .features
            .par_chunks(CHUNK * self.dim)
            .zip(self.labels.par_chunks(CHUNK))
            .map(|(images, labels)| self.chunk_value_and_gradient(&weights, images, labels))
            .collect();

        let images = self.labels.len() as f64;
        gradient.fill(0.0);
        let mut value = 0.0;
        for (chunk_value, chunk_gradient) in &partial {
            value += chunk_value / images;
            for (sum, &part) in gradient.iter_mut().zip(chunk_gradient) {
                *sum += f64::from(part) / images;
            }
        }
        let rows = parameters.chunks_exact(self.dim + 1);
        for (row, gradient) in rows.zip(gradient.chunks_exact_mut(self.dim + 1)) {
            // The bias is not penalised.
            for (weight, gradient) in row[..self.dim].iter().zip(gradient) {
                value += 0.5 * WEIGHT_DECAY * weight * weight;
                *gradient += WEIGHT_DECAY * weight;
            }
        }
        value
    }

    fn chunk_value_and_gradient(
        &self,
        weights: &[f32],
        images: &[f32],
        labels: &[u32],
    ) -> (f64, Vec<f32>) {
        let mut value = 0.0f64;
        let mut gradient = vec![0.0f32; weights.len()];
        let mut logits = vec![0.0f32; self.classes];
        for (image, &label) in images.chunks_exact(self.dim).zip(labels) {
            self.logits(weights, image, &mut logits);
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let right = logits[label as usize] - largest;
            let mut total = 0.0f32;
            for logit in &mut logits {
                *logit = (*logit - largest).exp();
                total += *logit;
            }
            value += f64::from(total.ln() - right);
            let rows = gradient.chunks_exact_mut(self.dim + 1);
            for (class, (row, exponential)) in rows.zip(&logits).enumerate() {
                let target = if class == label as usize { 1.0 } else { 0.0 };
                let slope = exponential / total - target;
                for (sum, &feature) in row.iter_mut().zip(image) {
                    *sum += slope * feature;
                }
                row[self.dim] += slope;
            }
        }
        (value, gradient)
    }

    /// The most likely class of each image; of equals the smallest.
    fn predict(&self, parameters: &[f64]) -> Vec<u32> {
        let weights: Vec<f32> = parameters.iter().map(|&value| value as f32).collect();
        self.features
            .par_chunks_exact(self.dim)
            .map(|image| {
                let mut logits = vec![0.0f32; self.classes];
                self.logits(&weights, image, &mut logits);
                super::first_largest(&logits)
            })
            .collect()
    }
}

/// ⟨a, b⟩ in eight independent sums, which the compiler turns into vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_lanes, a_rest) = a.as_chunks::<8>();
    let (b_lanes, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0f32; 8];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

fn dot_f64(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// One remembered pair: s = change of parameters, y = change of gradient, ρ = 1/⟨s, y⟩.
struct Curvature {
    step: Vec<f64>,
    change: Vec<f64>,
    rho: f64,
}

/// L-BFGS from zero: where f has its minimum.
fn minimise(problem: &Problem<'_>) -> Vec<f64> {
    let length = problem.classes * (problem.dim + 1);
    let mut parameters = vec![0.0f64; length];
    let mut gradient = vec![0.0f64; length];
    let mut value = problem.value_and_gradient(&parameters, &mut gradient);
    let mut memory: VecDeque<Curvature> = VecDeque::with_capacity(MEMORY);

    for _ in 0..MAXIMUM_ITERATIONS {
        let largest = gradient
            .iter()
            .fold(0.0f64, |largest, g| largest.max(g.abs()));
        if largest <= GRADIENT_TOLERANCE {
            break;
        }
        let direction = descent_direction(&gradient, &memory);
        let slope = dot_f64(&direction, &gradient);
        let Some((next, next_value, next_gradient)) =
            backtrack(problem, &parameters, value, &direction, slope)
        else {
            break;
        };
        let step: Vec<f64> = next.iter().zip(&parameters).map(|(a, b)| a - b).collect();
        let change: Vec<f64> = next_gradient
            .iter()
            .zip(&gradient)
            .map(|(a, b)| a - b)
            .collect();
        let product = dot_f64(&step, &change);
        // Only a pair with positive curvature keeps the implied Hessian positive definite.
        if product > f64::EPSILON * dot_f64(&change, &change) {
            if memory.len() == MEMORY {
                memory.pop_front();
            }
            memory.push_back(Curvature {
                step,
                change,
                rho: 1.0 / product,
            });
        }
        (parameters, value, gradient) = (next, next_value, next_gradient);
    }
    parameters
}

/// −H·gradient by the two-loop recursion, H the inverse Hessian that the memory implies.
fn descent_direction(gradient: &[f64], memory: &VecDeque<Curvature>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let add = |direction: &mut [f64], factor: f64, vector: &[f64]| {
        for (value, part) in direction.iter_mut().zip(vector) {
            *value += factor * part;
        }
    };
    let mut alphas = Vec::with_capacity(memory.len());
    for pair in memory.iter().rev() {
        let alpha = pair.rho * dot_f64(&pair.step, &direction);
        add(&mut direction, -alpha, &pair.change);
        alphas.push(alpha);
    }
    if let Some(latest) = memory.back() {
        let scale = 1.0 / (latest.rho * dot_f64(&latest.change, &latest.change));
        direction.iter_mut().for_each(|value| *value *= scale);
    }
    for (pair, alpha) in memory.iter().zip(alphas.into_iter().rev()) {
        let beta = pair.rho * dot_f64(&pair.change, &direction);
        add(&mut direction, alpha - beta, &pair.step);
    }
    direction
}

/// Halves the step until f falls enough; `None` when rounding (or NaN) hides any decrease.
fn backtrack(
    problem: &Problem<'_>,
    parameters: &[f64],
    value: f64,
    direction: &[f64],
    slope: f64,
) -> Option<(Vec<f64>, f64, Vec<f64>)> {
    let mut gradient = vec![0.0f64; parameters.len()];
    let mut length = 1.0;
    for _ in 0..20 {
        let next: Vec<f64> = parameters
            .iter()
            .zip(direction)
            .map(|(p, d)| p + length * d)
            .collect();
        let next_value = problem.value_and_gradient(&next, &mut gradient);
        if next_value <= value + SUFFICIENT_DECREASE * length * slope {
            return Some((next, next_value, gradient));
        }
        length *= 0.5;
    }
    None
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::Rows;
    use crate::train::on_threads;

    fn labelled<'a>(features: &'a [f32], labels: &'a [u32]) -> Labelled<'a> {
        let dim = features.len() / labels.len();
        Labelled {
            features: Rows::new(features, labels.len(), dim).unwrap(),
            labels,
        }
    }

    /// Points around the corners of a simplex: class c has its mass on coordinate c.
    fn clusters(per_class: usize, noise: f32, seed: u64) -> (Vec<f32>, Vec<u32>) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut features = Vec::new();
        let mut labels = Vec::new();
        for index in 0..3 * per_class {
            let label = index % 3;
            for coordinate in 0..5 {
                let centre = if coordinate == label { 1.0 } else { 0.0 };
                features.push(1e3 * (centre + noise * random.random_range(-1.0f32..1.0)));
            }
            labels.push(label as u32);
        }
        (features, labels)
    }

    fn problem<'a>(features: &[f32], labels: &'a [u32]) -> Problem<'a> {
        Problem {
            features: features.iter().map(|value| value * 1e-3).collect(),
            labels,
            dim: 5,
            classes: 3,
        }
    }

    #[test]
    fn separable_classes_are_separated_on_points_never_seen() {
        let (train, train_labels) = clusters(200, 0.4, 1);
        let (test, test_labels) = clusters(100, 0.4, 2);
        let found = accuracy(
            labelled(&train, &train_labels),
            labelled(&test, &test_labels),
        );
        assert_eq!(found, 1.0);
    }

    #[test]
    fn features_that_do_not_depend_on_the_label_give_chance() {
        let (train, mut labels) = clusters(300, 0.4, 1);
        let mut random = ChaCha8Rng::seed_from_u64(3);
        labels
            .iter_mut()
            .for_each(|label| *label = random.random_range(0..3));
        let (test, test_labels) = clusters(300, 0.4, 2);
        let found = accuracy(labelled(&train, &labels), labelled(&test, &test_labels));
        assert!(found < 0.6, "{found}");
    }

    #[test]
    fn constant_features_predict_the_commonest_class() {
        let features = [7.0f32; 10];
        let labels = [0, 1, 1, 1, 2];
        let found = accuracy(labelled(&features, &labels), labelled(&features, &labels));
        assert_eq!(found, 0.6);
    }

    #[test]
    fn the_gradient_agrees_with_finite_differences() {
        let (features, labels) = clusters(20, 0.5, 4);
        let problem = problem(&features, &labels);
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let parameters: Vec<f64> = (0..18).map(|_| random.random_range(-1.0..1.0)).collect();
        let mut gradient = vec![0.0; 18];
        problem.value_and_gradient(&parameters, &mut gradient);
        let h = 1e-2;
        let difference = |index: usize| {
            let at = |offset: f64| {
                let mut moved = parameters.clone();
                moved[index] += offset;
                problem.value_and_gradient(&moved, &mut [0.0; 18])
            };
            (at(h) - at(-h)) / (2.0 * h)
        };
        let differences: Vec<f64> = (0..18).map(difference).collect();
        assert_abs_diff_eq!(differences[..], gradient[..], epsilon = 1e-4);
    }

    #[test]
    fn the_result_does_not_depend_on_the_number_of_threads() {
        let (features, labels) = clusters(400, 2.0, 6);
        let problem = problem(&features, &labels);
        let with = |threads| on_threads(threads, || minimise(&problem));
        assert_eq!(with(1), with(3));
    }
}
