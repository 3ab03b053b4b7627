//! The plain implementation of the row-wise verbs, in f32, one loop after the other; that of a contrast is
//! the reference, rounded to f32 after every operation.
//!
//! It is what a careful person writes in ten minutes. Its error against float64 is the error that f32 arithmetic
//! costs anyone, and the tolerance rule allows an engine twice that.

use crate::element::Element;
use crate::rows::{Matrix, Rows};

/// y, the norms.
pub fn normalize(x: &[f32], dim: usize, epsilon: f32) -> (Vec<f32>, Vec<f32>) {
    // Scaled by the largest number, so that no square leaves the range of f32.
    let norm = |x: &[f32]| {
        let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let scaled: Vec<f32> = x.iter().map(|x| x / largest).collect();
        match largest {
            0.0 => 0.0,
            _ => largest * dot(&scaled, &scaled).sqrt(),
        }
    };
    let norms: Vec<f32> = x.chunks(dim).map(norm).collect();
    let rows = x.chunks(dim).zip(&norms);
    let y = rows.flat_map(|(x, norm)| x.iter().map(move |x| x / norm.max(epsilon)));
    (y.collect(), norms)
}

/// dx, of finite y and dy.
pub fn normalize_backward<G: Element>(
    y: &[f32],
    norms: &[f32],
    dy: &[f32],
    dim: usize,
    epsilon: f32,
) -> Vec<G> {
    let rows = y.chunks(dim).zip(dy.chunks(dim)).zip(norms);
    rows.flat_map(|((y, dy), &norm)| {
        let along = if norm <= epsilon { 0.0 } else { dot(y, dy) };
        let dx = |(y, dy): (&f32, &f32)| G::from_f32((dy - y * along) / norm.max(epsilon));
        let dx: Vec<G> = y.iter().zip(dy).map(dx).collect();
        let overflows = dx.iter().any(|dx| !dx.to_f32().is_finite());
        match norm <= epsilon.max(G::DTYPE.min_positive()) && overflows {
            true => vec![G::from_f32(0.0); dim],
            false => dx,
        }
    })
    .collect()
}

/// A slice as f32.
pub(super) fn widen<T: Element>(rows: Rows<'_, T>) -> Vec<f32> {
    let mut numbers = vec![0.0; rows.rows() * rows.dim()];
    T::widen(&rows.contiguous(), &mut numbers);
    numbers
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
