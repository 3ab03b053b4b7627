//! Two-dimensional pictures of embeddings: principal components, and exact t-SNE that starts from
//! them.
//!
//! t-SNE (van der Maaten & Hinton 2008) places points so that neighbours stay neighbours. It starts
//! from the principal components with the learning rate N/12 (Kobak & Berens 2019), so that it is
//! deterministic. *Exact* means that it computes the forces of all N² pairs, without a tree. Each row
//! sums its own forces in index order, so the number of threads does not matter.

use rayon::prelude::*;

use super::statistics::squared_distance;
use crate::{Matrix, Rows};

/// A point of the picture.
pub type Point = [f64; 2];

/// Perplexity, 2^entropy: the effective number of neighbours of a point.
const PERPLEXITY: f64 = 30.0;
/// Descent steps.
const ITERATIONS: usize = 500;
/// The first steps multiply all attraction by [`EXAGGERATION`], so that clusters form.
const EXAGGERATED_ITERATIONS: usize = 150;
const EXAGGERATION: f64 = 12.0;
/// Standard deviation of the starting points along the first component.
const INITIAL_DEVIATION: f64 = 1e-4;
/// Power iterations per principal component.
const POWER_ITERATIONS: usize = 300;

/// The scores of each row on the first two principal components. The largest entry of each axis is
/// positive; a direction without variance gives zeros.
pub fn principal_components(data: Rows<'_, f32>) -> Vec<Point> {
    let (rows, dim) = (data.rows(), data.dim());
    let share = |i, j: usize| f64::from(data.row(i)[j]) / rows as f64;
    let mean: Vec<f64> = (0..dim)
        .map(|j| (0..rows).map(|i| share(i, j)).sum())
        .collect();
    let centre = |i| {
        let row = data.row(i).iter().zip(&mean);
        row.map(|(&x, m)| f64::from(x) - m).collect()
    };
    let centred: Vec<Vec<f64>> = (0..rows).map(centre).collect();
    let mut covariance: Vec<Vec<f64>> = (0..dim)
        .into_par_iter()
        .map(|a| {
            let mut row = vec![0.0f64; dim];
            for image in &centred {
                for (sum, value) in row.iter_mut().zip(image) {
                    *sum += image[a] * value / rows as f64;
                }
            }
            row
        })
        .collect();
    let axes: [Vec<f64>; 2] = std::array::from_fn(|_| {
        let (axis, variance) = leading_eigenvector(&covariance);
        for (row, a) in covariance.iter_mut().zip(&axis) {
            for (value, b) in row.iter_mut().zip(&axis) {
                *value -= variance * a * b;
            }
        }
        axis
    });
    let scores = |image: &Vec<f64>| [dot(image, &axes[0]), dot(image, &axes[1])];
    centred.iter().map(scores).collect()
}

/// Eigenvector and eigenvalue of largest modulus by power iteration; zeros for a zero matrix.
fn leading_eigenvector(matrix: &[Vec<f64>]) -> (Vec<f64>, f64) {
    // The column of the largest variance is never orthogonal to the leading direction, which
    // contributes most to that variance.
    let variance = |a: &usize| matrix[*a][*a];
    let start = (0..matrix.len()).max_by(|a, b| variance(a).total_cmp(&variance(b)));
    let mut vector = matrix[start.unwrap_or_default()].clone();
    let mut eigenvalue = 0.0;
    for _ in 0..POWER_ITERATIONS {
        let length = dot(&vector, &vector).sqrt();
        // Deflation of an exhausted matrix leaves rounding noise.
        if length.is_nan() || length <= 1e-12 {
            return (vec![0.0; matrix.len()], 0.0);
        }
        vector.iter_mut().for_each(|value| *value /= length);
        let image: Vec<f64> = matrix.iter().map(|row| dot(row, &vector)).collect();
        eigenvalue = dot(&image, &vector);
        vector = image;
    }
    let length = dot(&vector, &vector).sqrt();
    let largest = vector.iter().max_by(|a, b| a.abs().total_cmp(&b.abs()));
    let sign = largest.map_or(1.0, |largest| largest.signum());
    let scale = if length > 0.0 { sign / length } else { 0.0 };
    vector.iter_mut().for_each(|value| *value *= scale);
    (vector, eigenvalue)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Places every row so that near rows (in squared Euclidean distance) are near in the picture.
///
/// Cost: N² per iteration. Fewer than 8 rows, or rows that are not finite, give the principal
/// components.
pub fn neighbour_picture(data: Rows<'_, f32>) -> Vec<Point> {
    let start = principal_components(data);
    let finite = data.contiguous().iter().all(|value| value.is_finite());
    let variance = start.iter().map(|p| p[0] * p[0]).sum::<f64>() / start.len() as f64;
    if start.len() < 8 || !finite || variance == 0.0 {
        return start;
    }
    let scale = INITIAL_DEVIATION / variance.sqrt();
    let start = start.iter().map(|p| p.map(|x| x * scale)).collect();
    descend(&affinities(data), start)
}

/// P of t-SNE's equation 1 of section 2, made symmetric: N × N, sum 1.
fn affinities(data: Rows<'_, f32>) -> Vec<Vec<f64>> {
    let rows = data.rows();
    let perplexity = PERPLEXITY.min((rows - 1) as f64 / 3.0);
    let conditional: Vec<Vec<f64>> = (0..rows)
        .into_par_iter()
        .map(|i| {
            let to = |j| squared_distance(data.row(i), data.row(j));
            let distances: Vec<f64> = (0..rows).map(to).collect();
            conditional_probabilities(&distances, i, perplexity.ln())
        })
        .collect();
    (0..rows)
        .into_par_iter()
        .map(|i| {
            (0..rows)
                .map(|j| (conditional[i][j] + conditional[j][i]) / (2 * rows) as f64)
                .collect()
        })
        .collect()
}

/// p_{j|i} ∝ exp(−β d_ij), with β bisected until the entropy (nats) is `entropy`.
fn conditional_probabilities(distances: &[f64], i: usize, entropy: f64) -> Vec<f64> {
    let others = || (0..distances.len()).filter(|&j| j != i);
    let nearest = others().map(|j| distances[j]).fold(f64::INFINITY, f64::min);
    let mean = others().map(|j| distances[j] - nearest).sum::<f64>() / distances.len() as f64;
    let mut probabilities = vec![0.0; distances.len()];
    // In units of the mean distance, so that the start suits features of any scale.
    let unit = if mean > 0.0 { 1.0 / mean } else { 1.0 };
    let (mut beta, mut low, mut high) = (unit, 0.0, f64::INFINITY);
    for _ in 0..64 {
        let (mut total, mut weighted) = (0.0, 0.0);
        for j in others() {
            let distance = distances[j] - nearest;
            probabilities[j] = (-beta * distance).exp();
            total += probabilities[j];
            weighted += probabilities[j] * distance;
        }
        let found = total.ln() + beta * weighted / total;
        probabilities.iter_mut().for_each(|p| *p /= total);
        if (found - entropy).abs() < 1e-5 {
            break;
        }
        if found > entropy {
            low = beta;
        } else {
            high = beta;
        }
        beta = if high.is_finite() {
            (low + high) / 2.0
        } else {
            beta * 2.0
        };
    }
    probabilities
}

/// Gradient descent with momentum and per-coordinate gains on KL(P‖Q).
fn descend(affinities: &[Vec<f64>], mut points: Vec<Point>) -> Vec<Point> {
    let learning_rate = (points.len() as f64 / EXAGGERATION).max(50.0);
    let mut velocity = vec![[0.0f64; 2]; points.len()];
    let mut gains = vec![[1.0f64; 2]; points.len()];
    for iteration in 0..ITERATIONS {
        let (exaggeration, momentum) = match iteration {
            ..EXAGGERATED_ITERATIONS => (EXAGGERATION, 0.5),
            _ => (1.0, 0.8),
        };
        let gradient = gradient(affinities, &points, exaggeration);
        for i in 0..points.len() {
            for axis in 0..2 {
                let (slope, velocity) = (gradient[i][axis], &mut velocity[i][axis]);
                let gain = &mut gains[i][axis];
                *gain = match slope * *velocity > 0.0 {
                    true => (*gain * 0.8).max(0.01),
                    false => *gain + 0.2,
                };
                *velocity = momentum * *velocity - learning_rate * *gain * slope;
                points[i][axis] += *velocity;
            }
        }
    }
    points
}

/// 4 Σ_j (e·p_ij − q_ij)(y_i − y_j)/(1 + ‖y_i − y_j‖²), t-SNE's equation 5, e the exaggeration.
fn gradient(affinities: &[Vec<f64>], points: &[Point], exaggeration: f64) -> Vec<Point> {
    // Per row: Σ_j p·k·Δ, Σ_j k²·Δ and Σ_j k with k = 1/(1 + ‖Δ‖²); q_ij = k/Σk.
    let rows: Vec<(Point, Point, f64)> = points
        .par_iter()
        .zip(affinities)
        .map(|(point, affinities)| {
            let (mut attraction, mut repulsion, mut total) = ([0.0; 2], [0.0; 2], 0.0);
            for (other, affinity) in points.iter().zip(affinities) {
                let (x, y) = (point[0] - other[0], point[1] - other[1]);
                let kernel = 1.0 / (1.0 + x * x + y * y);
                let pull = affinity * kernel;
                let push = kernel * kernel;
                attraction[0] += pull * x;
                attraction[1] += pull * y;
                repulsion[0] += push * x;
                repulsion[1] += push * y;
                total += kernel;
            }
            // The point's kernel with itself is 1 and does not belong to Q.
            (attraction, repulsion, total - 1.0)
        })
        .collect();
    let total: f64 = rows.iter().map(|row| row.2).sum();
    rows.iter()
        .map(|(attraction, repulsion, _)| {
            [0, 1].map(|axis| 4.0 * (exaggeration * attraction[axis] - repulsion[axis] / total))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::train::testing::on_threads;

    #[test]
    fn principal_components_of_a_tilted_grid_are_its_axes() {
        // (3, 4)/5 carries ±10 and ±5, (−4, 3)/5 carries ±1, around the mean (7, −2).
        let mut data = Vec::new();
        let mut expected = Vec::new();
        for along in [-10.0f32, -5.0, 5.0, 10.0] {
            for across in [-1.0f32, 1.0] {
                data.push(7.0 + 0.6 * along - 0.8 * across);
                data.push(-2.0 + 0.8 * along + 0.6 * across);
                expected.push([f64::from(along), f64::from(-across)]);
            }
        }
        let found = principal_components(Rows::new(&data, 8, 2).unwrap());
        let (found, expected) = (found.as_flattened(), expected.as_flattened());
        assert_abs_diff_eq!(*found, *expected, epsilon = 1e-5);
    }

    #[test]
    fn data_without_variance_gives_the_origin() {
        let data = [3.0f32; 40];
        let rows = Rows::new(&data, 20, 2).unwrap();
        assert!(
            neighbour_picture(rows)
                .iter()
                .all(|&point| point == [0.0, 0.0])
        );
    }

    #[test]
    fn conditional_probabilities_have_the_entropy_asked_for() {
        let distances: Vec<f64> = (0..50).map(|j| f64::from(j) * 1e4).collect();
        let found = conditional_probabilities(&distances, 3, 10.0f64.ln());
        let positive = found.iter().filter(|&&p| p > 0.0);
        let entropy: f64 = positive.map(|p| -p * p.ln()).sum();
        assert_abs_diff_eq!(entropy.exp(), 10.0, epsilon = 1e-3);
        assert_eq!(found[3], 0.0);
    }

    #[test]
    fn separate_clusters_stay_separate_and_the_picture_repeats() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let (clusters, rows, dim) = (4, 120, 16);
        let mut data = Vec::new();
        for index in 0..rows {
            for coordinate in 0..dim {
                let centre = 3.0 * f32::from(coordinate == index % clusters);
                data.push(centre + random.random_range(-0.5f32..0.5));
            }
        }
        let rows_view = Rows::new(&data, rows, dim).unwrap();
        let points = neighbour_picture(rows_view);
        let distance =
            |a: usize, b: usize| (points[a][0] - points[b][0]).hypot(points[a][1] - points[b][1]);
        for i in 0..rows {
            let nearest = (0..rows)
                .filter(|&j| j != i)
                .min_by(|&a, &b| distance(i, a).total_cmp(&distance(i, b)))
                .unwrap();
            assert_eq!(nearest % clusters, i % clusters);
        }
        assert_eq!(on_threads(1, || neighbour_picture(rows_view)), points);
    }
}
