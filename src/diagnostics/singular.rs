//! Singular values in f64: Householder's QR decomposition, then one-sided Jacobi rotations (Golub and Van Loan 2013,
//! sections 5.2 and 8.6.3).
//!
//! Each value's error is a few ulps of the largest. Eigenvalues of the D × D Gram matrix would lose every value below
//! 10⁻⁸ of it.

use rayon::prelude::*;

/// Two columns whose cosine is below are orthogonal: values are then right to D·10⁻¹², relatively.
const ORTHOGONAL: f64 = 1e-12;
/// Rounds over all pairs of columns; fewer than ten are needed.
const MOST_SWEEPS: usize = 40;
/// Partial sums of a dot product, for vector instructions.
const LANES: usize = 8;

/// The min(N, D) singular values of a finite N × D matrix, in no order.
pub(super) fn singular_values(matrix: &[f64], dim: usize) -> Vec<f64> {
    let rows = matrix.len() / dim;
    // Of a wide matrix the transpose, which has the same singular values.
    let mut columns: Vec<Vec<f64>> = if rows < dim {
        matrix.chunks(dim).map(<[f64]>::to_vec).collect()
    } else {
        let column = |d| matrix.iter().skip(d).step_by(dim).copied().collect();
        (0..dim).map(column).collect()
    };
    triangulate(&mut columns);
    orthogonalise(&mut columns);
    columns.iter().map(|x| dot(x, x).sqrt()).collect()
}

/// Replaces the columns of a tall matrix by those of R, square and upper triangular, of A = QR.
fn triangulate(columns: &mut [Vec<f64>]) {
    let count = columns.len();
    for k in 0..count {
        let (head, rest) = columns[k..].split_at_mut(1);
        // I − 2vvᵀ/‖v‖² maps column k, from its row k on, to (r, 0, …, 0).
        let v = &mut head[0][k..];
        let length = dot(v, v).sqrt();
        let r = if v[0] > 0.0 { -length } else { length };
        v[0] -= r;
        let square = dot(v, v);
        if square > 0.0 {
            rest.par_iter_mut().for_each(|x| {
                let factor = 2.0 * dot(v, &x[k..]) / square;
                x[k..]
                    .iter_mut()
                    .zip(&*v)
                    .for_each(|(x, v)| *x -= factor * v);
            });
        }
        head[0].truncate(k);
        head[0].push(r);
        head[0].resize(count, 0.0);
    }
}

/// Rotates pairs of columns until all are orthogonal.
fn orthogonalise(columns: &mut [Vec<f64>]) {
    let total: f64 = columns.iter().map(|x| dot(x, x)).sum();
    // Columns below are rounding errors of the others.
    let least = total * f64::EPSILON.powi(2);
    for _ in 0..MOST_SWEEPS {
        let mut is_done = true;
        for q in 1..columns.len() {
            let (before, from) = columns.split_at_mut(q);
            let y = &mut from[0];
            for x in before {
                let [xx, yy, xy] = [dot(x, x), dot(y, y), dot(x, y)];
                if xx.min(yy) <= least || xy.abs() <= ORTHOGONAL * (xx * yy).sqrt() {
                    continue;
                }
                is_done = false;
                let cotangent = (yy - xx) / (2.0 * xy);
                let tangent = cotangent.signum() / (cotangent.abs() + cotangent.hypot(1.0));
                let cosine = 1.0 / tangent.hypot(1.0);
                let sine = cosine * tangent;
                for (x, y) in x.iter_mut().zip(&mut *y) {
                    (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
                }
            }
        }
        if is_done {
            return;
        }
    }
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (x, y) in x.iter().zip(y) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let rest = x_rest.iter().zip(y_rest).map(|(x, y)| x * y);
    sums.iter().sum::<f64>() + rest.sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ±1: the parity of the bits that both have. Rows and columns of Hadamard's matrix are orthogonal.
    fn hadamard(i: usize, j: usize) -> f64 {
        [1.0, -1.0][(i & j).count_ones() as usize % 2]
    }

    #[test]
    fn small_singular_values_keep_their_digits() {
        // 16 × 8: U·diag(d)·Vᵀ of orthogonal U and V, exact in f64, with singular values √16·√8·d.
        let d: Vec<f64> = (0..8).map(|k| 2f64.powi(-5 * k)).collect();
        let at = |i: usize, j: usize| -> f64 {
            (0..8).map(|k| hadamard(i, k) * d[k] * hadamard(j, k)).sum()
        };
        let tall: Vec<f64> = (0..16 * 8).map(|place| at(place / 8, place % 8)).collect();
        let wide: Vec<f64> = (0..16 * 8)
            .map(|place| at(place % 16, place / 16))
            .collect();
        for (matrix, dim) in [(tall, 8), (wide, 16)] {
            let mut found = singular_values(&matrix, dim);
            found.sort_by(|a, b| b.total_cmp(a));
            assert_eq!(found.len(), 8);
            for (found, d) in found.iter().zip(&d) {
                let expected = 128f64.sqrt() * d;
                // Rounding errors are those of the largest, 2⁻⁵³ each.
                assert!((found - expected).abs() < 1e-14, "{found}, not {expected}");
            }
        }
    }

    #[test]
    fn rows_of_one_direction_have_one_singular_value() {
        let matrix: Vec<f64> = (0..5)
            .flat_map(|i| [1.0, 2.0, 2.0].map(|x| x * f64::from(i)))
            .collect();
        let mut found = singular_values(&matrix, 3);
        found.sort_by(f64::total_cmp);
        // ‖(0, 1, 2, 3, 4)‖ · ‖(1, 2, 2)‖.
        assert!((found[2] - 30f64.sqrt() * 3.0).abs() < 1e-13, "{found:?}");
        assert!(found[1] < 1e-14, "{found:?}");
    }
}
