//! Row-wise verbs: L2 normalisation and its gradient, the momentum update, and the update of a memory bank.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::simd::Kernel;
use crate::bank;
use crate::element::Element;
use crate::engine::MomentumSlices;
use crate::rows::{Matrix, Rows, RowsMut};

/// Elements of a momentum update's task: 64 KiB of f32.
const CHUNK: usize = 16 * 1024;

/// y_i = x_i / max(‖x_i‖, epsilon), and the norms; shapes have been checked.
pub(super) fn normalize<T: Element, O: Element>(
    x: Rows<'_, T>,
    y: RowsMut<'_, O>,
    norms: &mut [f32],
    epsilon: f32,
) {
    let kernel = Kernel::for_f32();
    let dim = x.dim();
    let ((x, x_stride), (y, y_stride)) = (x.into_data(), y.into_data());
    x.par_chunks(x_stride)
        .zip(y.par_chunks_mut(y_stride))
        .zip(norms)
        .for_each(|((x, y), norm)| {
            let (x, y) = (&x[..dim], &mut y[..dim]);
            let length = kernel.dot(x, x).sqrt();
            *norm = length as f32;
            // A NaN compares as false, so epsilon does not replace it.
            let is_short = length < f64::from(epsilon);
            let divisor = if is_short { epsilon.into() } else { length };
            for (y, x) in y.iter_mut().zip(x) {
                *y = O::from_f32((f64::from(x.to_f32()) / divisor) as f32);
            }
        });
}

/// dx_i = (dy_i − y_i⟨y_i, dy_i⟩)/‖x_i‖, or dy_i/epsilon where ‖x_i‖ ≤ epsilon; shapes have been checked.
pub(super) fn normalize_backward<T: Element, G: Element>(
    y: Rows<'_, T>,
    norms: &[f32],
    dy: Rows<'_, G>,
    dx: RowsMut<'_, G>,
    epsilon: f32,
) {
    let kernel = Kernel::for_f32();
    let short = epsilon.max(G::DTYPE.min_positive());
    let dim = y.dim();
    let (dx, stride) = dx.into_data();
    dx.par_chunks_mut(stride)
        .zip(norms)
        .enumerate()
        .for_each(|(i, (dx, &norm))| {
            let (y, dy, dx) = (y.row(i), dy.row(i), &mut dx[..dim]);
            let (along, divisor) = match norm <= epsilon {
                true => (0.0, epsilon),
                false => (kernel.dot(y, dy) as f32, norm),
            };
            for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = G::from_f32((dy.to_f32() - y.to_f32() * along) / divisor);
            }
            // As the reference: an infinity would end training, and a short row's direction is rounding error.
            if norm <= short && !is_finite(dx) && is_finite(y) && is_finite(dy) {
                dx.fill(G::from_f32(0.0));
            }
        });
}

fn is_finite<T: Element>(row: &[T]) -> bool {
    row.iter().all(|x| x.to_f32().is_finite())
}

/// key ← m·key + (1−m)·query; lengths have been checked.
pub(super) fn momentum_update<T: Element>(momentum: f32, tensors: &mut [MomentumSlices<'_, T>]) {
    let rest = 1.0 - momentum;
    tensors.par_iter_mut().for_each(|tensor| {
        tensor
            .key
            .par_chunks_mut(CHUNK)
            .zip(tensor.query.par_chunks(CHUNK))
            .for_each(|(key, query)| {
                for (key, query) in key.iter_mut().zip(query) {
                    *key = momentum * *key + rest * query.to_f32();
                }
            });
        if let Some(shadow) = tensor.shadow.as_deref_mut() {
            shadow
                .par_chunks_mut(CHUNK)
                .zip(tensor.key.par_chunks(CHUNK))
                .for_each(|(shadow, key)| T::narrow(key, shadow));
        }
    });
}

/// bank_r ← y/max(‖y‖, ε), y = m·bank_r + (1−m)·key, for the last key of each row r; shapes and indices have been
/// checked.
pub(super) fn update_rows<T: Element>(
    bank: RowsMut<'_, T>,
    rows: &[u32],
    keys: Rows<'_, T>,
    momentum: f32,
) {
    let kernel = Kernel::for_f32();
    let (count, dim, rest) = (bank.rows(), bank.dim(), 1.0 - momentum);
    let (bank, stride) = bank.into_data();
    let named = rows.iter().map(|&row| row as usize).zip(0..);
    // Later keys replace earlier ones.
    let last: BTreeMap<usize, usize> = named.filter(|&(row, _)| row < count).collect();
    let (mut left, mut next) = (bank.chunks_mut(stride), 0);
    let mut updated = Vec::with_capacity(last.len());
    for (row, key) in last {
        updated.extend(left.nth(row - next).map(|to| (to, key)));
        next = row + 1;
    }
    updated.into_par_iter().for_each(|(row, key)| {
        let row = &mut row[..dim];
        let pairs = row.iter().zip(keys.row(key));
        let y: Vec<f32> = pairs
            .map(|(old, key)| momentum * old.to_f32() + rest * key.to_f32())
            .collect();
        let norm = kernel.dot(&y, &y).sqrt();
        // A NaN compares as false, so epsilon does not replace it.
        let epsilon = f64::from(bank::EPSILON);
        let divisor = if norm < epsilon { epsilon } else { norm };
        for (to, y) in row.iter_mut().zip(y) {
            *to = T::from_f32((f64::from(y) / divisor) as f32);
        }
    });
}
