//! Rows with gaps between them, on engines with host memory.

use infonce::{Accumulate, Gradients, RowsMut, Triplet, Triplets};

use super::*;

pub(super) fn promises<E: Engine<Memory = HostMemory>>() -> [(&'static str, Promise<E>); 2] {
    [
        ("gaps between rows change no bit and stay", contrasts),
        ("gaps between rows of other verbs stay", other_verbs),
    ]
}

/// `elements` in rows of `dim`, each followed by a gap of `gap`.
fn with_gaps<T: Element>(elements: &[T], dim: usize, gap: T) -> Vec<T> {
    let rows = elements.chunks(dim);
    rows.flat_map(|row| row.iter().copied().chain([gap; GAP]))
        .collect()
}

const GAP: usize = 3;

/// The rows without their gaps, which must still be `gap`.
fn without_gaps<T: Element>(elements: &[T], dim: usize, gap: T, what: &str) -> Vec<T> {
    let rows = elements.chunks(dim + GAP);
    let mut kept = Vec::new();
    for row in rows {
        assert!(row[dim..].iter().all(|&x| x == gap), "{what}: {row:?}");
        kept.extend_from_slice(&row[..dim]);
    }
    kept
}

fn bits<T: Element>(elements: &[T]) -> Vec<u32> {
    elements.iter().map(|x| x.to_f32().to_bits()).collect()
}

fn contrasts<E: Engine<Memory = HostMemory>>(new: New<E>) -> Result<(), Error> {
    fn check<E: Engine<Memory = HostMemory>, T: Element>(engine: &E) -> Result<(), Error> {
        let (gap, nan) = (T::from_f32(7.0), T::from_f32(f32::NAN));
        for (kind, dim) in kinds(0.2, 10, 37)?.iter().zip([24, 272, 33, 40, 272]) {
            let batch = Batch::<T>::new(&kind.unit_rows(dim, 16));
            let problem = batch.problem(kind)?;
            let shape = problem.shape();
            // Gaps are NaN, so that reading one shows in the outputs.
            let gapped: Vec<Vec<T>> = batch
                .numbers
                .iter()
                .map(|numbers| with_gaps(numbers, dim, nan))
                .collect();
            let views: Result<Vec<Rows<'_, T>>, Error> = gapped
                .iter()
                .map(|x| Rows::with_stride(x, x.len() / (dim + GAP), dim, dim + GAP))
                .collect();
            let strided = kind.problem(&views?)?;
            let what = format!("{} of {}", kind.name(), T::DTYPE);
            let forward = engine.forward(&problem)?;
            assert_eq!(engine.forward(&strided)?, forward, "{what}");
            for backward in [false, true] {
                let alone = |anchors| Accumulate {
                    anchors,
                    candidates: !anchors,
                };
                let none = Accumulate::default();
                for accumulate in [none, alone(true), alone(false), Accumulate::ALL] {
                    let run = |problem: &Problem<Rows<'_, T>>, stride: usize| {
                        let mut buffers =
                            [shape.anchors, shape.candidates].map(|rows| vec![gap; rows * stride]);
                        let [dq, dk] = &mut buffers;
                        let dk = match kind.contrast.has_dk() {
                            true => Some(RowsMut::with_stride(dk, shape.candidates, dim, stride)?),
                            false => None,
                        };
                        let gradients = Gradients {
                            dq: RowsMut::with_stride(dq, shape.anchors, dim, stride)?,
                            dk,
                            dbias: None,
                            accumulate,
                        };
                        let dscale = match backward {
                            true => {
                                engine.backward(problem, &forward.statistics, 1.5, gradients)?
                            }
                            false => engine.value_and_grad(problem, 1.5, gradients)?.dscale,
                        };
                        Ok::<_, Error>((dscale, buffers))
                    };
                    let (dscale, contiguous) = run(&problem, dim)?;
                    let (strided_dscale, gapped) = run(&strided, dim + GAP)?;
                    assert_eq!(strided_dscale.to_bits(), dscale.to_bits(), "{what}");
                    for (gapped, contiguous) in gapped.iter().zip(&contiguous) {
                        let kept = without_gaps(gapped, dim, gap, &what);
                        assert_eq!(bits(&kept), bits(contiguous), "{what}");
                    }
                }
            }
        }
        Ok(())
    }
    let engine = &new()?;
    in_all_types!(check::<E>(engine));
    Ok(())
}

fn other_verbs<E: Engine<Memory = HostMemory>>(new: New<E>) -> Result<(), Error> {
    fn check<E: Engine<Memory = HostMemory>, T: Element>(engine: &E) -> Result<(), Error> {
        let (rows, dim, stride) = (11, 20, 20 + GAP);
        let (gap, nan) = (T::from_f32(7.0), T::from_f32(f32::NAN));
        let [x, dy] = [1, 2].map(|seed| rounded::<T>(&randn(rows, dim, seed)));
        let [gapped_x, gapped_dy] = [&x, &dy].map(|x| with_gaps(x, dim, nan));
        let what = T::DTYPE.to_string();
        let (plain_x, plain_dy) = (Rows::new(&x, rows, dim)?, Rows::new(&dy, rows, dim)?);
        let wide_x = Rows::with_stride(&gapped_x, rows, dim, stride)?;
        let wide_dy = Rows::with_stride(&gapped_dy, rows, dim, stride)?;

        let (y, norms) = OnHost(engine).normalize::<T, T>(plain_x, 1e-12)?;
        let (mut gapped, mut gapped_norms) = (vec![gap; rows * stride], vec![0.0; rows]);
        let to = RowsMut::with_stride(&mut gapped, rows, dim, stride)?;
        engine.normalize(wide_x, to, &mut gapped_norms, 1e-12)?;
        assert_eq!(bits(&without_gaps(&gapped, dim, gap, &what)), bits(&y));
        assert_eq!(gapped_norms, norms);

        let y = Rows::new(&y, rows, dim)?;
        let dx = OnHost(engine).normalize_backward(y, &norms, plain_dy, 1e-12)?;
        let wide_y = Rows::with_stride(&gapped, rows, dim, stride)?;
        let mut gapped_dx = vec![gap; rows * stride];
        let to = RowsMut::with_stride(&mut gapped_dx, rows, dim, stride)?;
        engine.normalize_backward(wide_y, &norms, wide_dy, to, 1e-12)?;
        assert_eq!(bits(&without_gaps(&gapped_dx, dim, gap, &what)), bits(&dx));

        let best = engine.top_k(plain_x, plain_dy, 4, false)?;
        assert_eq!(engine.top_k(wide_x, wide_dy, 4, false)?, best);

        let index: Vec<u32> = (0..rows as u32).collect();
        let triplet = |[q, k]: [Rows<'_, T>; 2], gapped: &mut [T], stride: usize| {
            let problem = Triplet::new(50.0)?.on(Triplets {
                q,
                k: Some(k),
                positives: &index[..],
                negatives: &[3; 11],
            })?;
            let (dq, dk) = gapped.split_at_mut(rows * stride);
            let gradients = Gradients::new(
                RowsMut::with_stride(dq, rows, dim, stride)?,
                Some(RowsMut::with_stride(dk, rows, dim, stride)?),
            );
            Ok::<_, Error>(engine.triplet(&problem, 1.5, gradients)?.to_bits())
        };
        let mut plain = vec![gap; 2 * rows * dim];
        let mut gapped = vec![gap; 2 * rows * stride];
        let loss = triplet([plain_x, plain_dy], &mut plain, dim)?;
        assert_eq!(triplet([wide_x, wide_dy], &mut gapped, stride)?, loss);
        assert_eq!(bits(&without_gaps(&gapped, dim, gap, &what)), bits(&plain));
        let rows_of: Vec<u32> = (0..rows as u32).map(|i| i * i % rows as u32).collect();
        let moved = OnHost(engine).update_rows(plain_x, &rows_of, plain_dy, 0.5)?;
        let mut gapped = with_gaps(&x, dim, gap);
        let to = RowsMut::with_stride(&mut gapped, rows, dim, stride)?;
        engine.update_rows(to, &rows_of, wide_dy, 0.5)?;
        assert_eq!(bits(&without_gaps(&gapped, dim, gap, &what)), bits(&moved));

        let [mut queue, mut wide_queue] = [
            infonce::KeyQueue::<T>::new(7, dim)?,
            infonce::KeyQueue::new(7, dim)?,
        ];
        engine.enqueue(&mut queue, plain_x)?;
        engine.enqueue(&mut wide_queue, wide_x)?;
        assert_eq!(wide_queue, queue);
        Ok(())
    }
    let engine = &new()?;
    in_all_types!(check::<E>(engine));
    Ok(())
}
