//! What only a device shows: memory that is counted, statistics and scales that stay there.

mod exponentials;
mod fp8;
mod pairs;
mod quantize;
mod rowwise;
mod rules;
mod shards;
mod step;
mod top_k;
mod two_terms;

use approx::{abs_diff_eq, assert_abs_diff_eq};

use super::positives::ExponentRange;
use super::{
    Device, DeviceIndices, DeviceMatrix, DeviceStatistics, Results, Similarity, number_bytes,
};
use crate::contrast::{Contrast, Shape, Work};
use crate::element::{DType, Element};
use crate::engine::{Engine, Gradients};
use crate::error::Error;
use crate::host::{HostBuffer, HostDevice, HostEngine, Schedule};
use crate::inputs::{Inputs, Positives, Problem};
use crate::losses::{Layout, RowRule};
use crate::rows::{Rows, RowsMut, View};
use half::{bf16, f16};

/// Numbers between -1 and 1 that do not repeat.
fn numbers<T: Element>(rows: usize, dim: usize, seed: usize) -> Vec<T> {
    let number = |i: usize| ((i * 37 + seed * 101) as f32).sin();
    (0..rows * dim).map(|i| T::from_f32(number(i))).collect()
}

/// A loss of every layout, and one of both directions.
fn contrasts() -> Result<[Contrast; 4], Error> {
    Ok([
        Contrast::nt_xent(0.1)?,
        Contrast::info_nce(0.1)?,
        Contrast::moco(0.1)?,
        Contrast::clip(10.0)?,
    ])
}

/// A positive of each of `anchors` anchors.
fn index(anchors: usize, candidates: usize) -> Vec<u32> {
    (0..anchors).map(|i| (i * 7 % candidates) as u32).collect()
}

/// A contrast on q, k and own keys, as far as its layout has them. Where columns have a loss positives are the
/// diagonal's.
fn posed<V: View>(
    contrast: &Contrast,
    [q, k, own_key]: [V; 3],
    positives: Positives<V::Indices>,
) -> Result<Problem<V>, Error> {
    contrast.on(match contrast.layout() {
        Layout::Shared => Inputs::Shared { z: q },
        Layout::Pair => Inputs::Pair {
            q,
            k,
            positives: match contrast.has_columns() {
                true => Positives::DIAGONAL,
                false => positives,
            },
        },
        Layout::Queue => Inputs::Queue {
            q,
            own_key,
            queue: k,
        },
    })
}

/// Runs `work` on a new engine; what a pool then holds.
fn held<T: Element>(contrast: &Contrast, shape: Shape, work: Work) -> Result<usize, Error> {
    let (anchors, candidates, dim) = (shape.anchors, shape.candidates, shape.dim);
    let engine = HostEngine::new(Schedule::Early, 1);
    let (q, k) = (
        numbers::<T>(anchors, dim, 1),
        numbers::<T>(candidates, dim, 2),
    );
    let own = numbers::<T>(anchors, dim, 3);
    let rows = |numbers| Rows::new(numbers, anchors, dim);
    let matrices = [rows(&q)?, Rows::new(&k, candidates, dim)?, rows(&own)?];
    let index = index(anchors, candidates);
    let problem = posed(contrast, matrices, Positives::Index(&index))?;
    let (mut dq, mut dk) = (vec![0.0f32; anchors * dim], vec![0.0f32; candidates * dim]);
    let dk = match work {
        Work::ValueAndGrad { dk: true } | Work::Backward { dk: true } => {
            Some(RowsMut::new(&mut dk, candidates, dim)?)
        }
        _ => None,
    };
    let gradients = Gradients::new(RowsMut::new(&mut dq, anchors, dim)?, dk);
    match work {
        Work::Forward => drop(engine.forward(&problem)?),
        Work::ValueAndGrad { .. } => drop(engine.value_and_grad(&problem, 1.0, gradients)?),
        Work::Backward { .. } => {
            let other = HostEngine::new(Schedule::Early, 2);
            let statistics = other.forward(&problem)?.statistics;
            engine.backward(&problem, &statistics, 1.0, gradients)?;
        }
    }
    Ok(engine.held_bytes())
}

#[test]
fn a_call_takes_exactly_the_memory_that_was_announced() -> Result<(), Error> {
    fn check<T: Element>(dtype: DType) -> Result<(), Error> {
        // D that need padding and that do not, fused and in several chunks.
        for dim in [7, 64, 264] {
            for contrast in contrasts()? {
                let square = contrast.is_shared() || contrast.has_columns();
                let shape = Shape {
                    anchors: 90,
                    candidates: if square { 90 } else { 300 },
                    dim,
                };
                let dk = contrast.has_dk();
                for call in [
                    Work::Forward,
                    Work::ValueAndGrad { dk },
                    Work::ValueAndGrad { dk: false },
                    Work::Backward { dk },
                ] {
                    let engine = HostEngine::new(Schedule::Early, 0);
                    let announced = engine.workspace_bytes(call, &contrast, shape, dtype)?;
                    let taken = held::<T>(&contrast, shape, call)?;
                    assert_eq!(
                        taken,
                        announced,
                        "{} {shape:?} {call:?} {dtype}",
                        contrast.name()
                    );
                }
            }
        }
        Ok(())
    }
    check::<f32>(DType::F32)?;
    check::<f16>(DType::F16)?;
    check::<bf16>(DType::Bf16)
}

#[test]
fn the_memory_of_shapes_that_no_call_takes_is_refused() -> Result<(), Error> {
    let engine = HostEngine::new(Schedule::Early, 0);
    let bytes = |shape| {
        let contrast = Contrast::moco(0.1)?;
        engine.workspace_bytes(Work::Forward, &contrast, shape, DType::F32)
    };
    let shape = Shape {
        anchors: 4,
        candidates: 4,
        dim: 4,
    };
    assert!(bytes(shape).is_ok());
    assert!(matches!(
        bytes(Shape {
            anchors: 0,
            ..shape
        }),
        Err(Error::Empty { .. })
    ));
    assert!(matches!(
        bytes(Shape { dim: 4097, ..shape }),
        Err(Error::Scalar { .. })
    ));
    let many = Shape {
        candidates: u32::MAX as usize,
        ..shape
    };
    assert!(matches!(bytes(many), Err(Error::Scalar { .. })));
    Ok(())
}

struct Fixture {
    device: HostDevice,
    held: Vec<HostBuffer>,
    q: DeviceMatrix,
    k: DeviceMatrix,
    gradients: Gradients<DeviceMatrix>,
}

const ROWS: usize = 70;

impl Fixture {
    fn new(dim: usize) -> Result<Self, Error> {
        Self::on(HostDevice::new(Schedule::Late, 5, 3), ROWS, ROWS, dim)
    }

    fn on(
        device: HostDevice,
        anchors: usize,
        candidates: usize,
        dim: usize,
    ) -> Result<Self, Error> {
        Self::with_gaps(device, anchors, candidates, dim, 0)
    }

    /// Every row after `gap` numbers that are nobody's.
    fn with_gaps(
        device: HostDevice,
        anchors: usize,
        candidates: usize,
        dim: usize,
        gap: usize,
    ) -> Result<Self, Error> {
        let mut held = Vec::new();
        let stride = gap + dim;
        let mut matrix = |rows, numbers: Option<Vec<bf16>>, dtype| -> Result<DeviceMatrix, Error> {
            let bytes = number_bytes(dtype);
            let buffer = device.memory(rows * stride * bytes)?;
            let address = HostDevice::address(&buffer) + (gap * bytes) as u64;
            for (row, numbers) in numbers.iter().flat_map(|n| n.chunks(dim)).enumerate() {
                let at = address + (row * stride * bytes) as u64;
                device.write(at, bytemuck::cast_slice(numbers))?;
            }
            held.push(buffer);
            Ok(DeviceMatrix {
                address,
                rows,
                dim,
                stride,
                dtype,
            })
        };
        Ok(Self {
            q: matrix(anchors, Some(numbers(anchors, dim, 1)), DType::Bf16)?,
            k: matrix(candidates, Some(numbers(candidates, dim, 2)), DType::Bf16)?,
            gradients: Gradients::new(
                matrix(anchors, None, DType::F32)?,
                Some(matrix(candidates, None, DType::F32)?),
            ),
            device,
            held,
        })
    }

    /// The contrast on the fixture's rows, on the diagonal; own keys are the anchors.
    fn problem(&self, contrast: &Contrast) -> Result<Problem<DeviceMatrix>, Error> {
        posed(contrast, [self.q, self.k, self.q], Positives::DIAGONAL)
    }

    fn indices(&mut self, index: &[u32]) -> Result<DeviceIndices, Error> {
        let buffer = self.device.memory(4 * index.len())?;
        let address = HostDevice::address(&buffer);
        self.device.write(address, bytemuck::cast_slice(index))?;
        self.held.push(buffer);
        Ok(DeviceIndices {
            address,
            length: index.len(),
        })
    }

    /// Bits of dq and dk.
    fn gradients(&self) -> Result<Vec<u8>, Error> {
        let mut both = Vec::new();
        for matrix in [Some(self.gradients.dq), self.gradients.dk]
            .into_iter()
            .flatten()
        {
            for row in 0..matrix.rows {
                let mut bytes = vec![0; 4 * matrix.dim];
                let at = matrix.address + (4 * row * matrix.stride) as u64;
                self.device.read(at, &mut bytes)?;
                both.extend(bytes);
            }
        }
        Ok(both)
    }
}

#[test]
fn a_scale_on_the_device_gives_the_bits_of_one_on_the_host() -> Result<(), Error> {
    for dim in [32, 300] {
        let fixture = Fixture::new(dim)?;
        let (device, gradients) = (&fixture.device, &fixture.gradients);
        let scale = device.memory(4)?;
        device.write(HostDevice::address(&scale), &7.5f32.to_le_bytes())?;
        for rule in [RowRule::SOFTMAX, RowRule::Debiased { prior: 0.2 }] {
            let clip = |scale| Contrast::clip(scale)?.with_rule(rule);
            let run = |problem: Problem<DeviceMatrix>| -> Result<_, Error> {
                let similarity = Similarity::new(device, 0);
                let results: Results<HostDevice> =
                    similarity.value_and_grad(&problem, 1.0, gradients)?;
                Ok((results.read(device)?, fixture.gradients()?))
            };
            let expected = run(fixture.problem(&clip(7.5)?)?)?;
            let on_device = fixture.problem(&clip(1.0)?)?;
            let on_device = on_device.with_scale(HostDevice::address(&scale));
            assert_eq!(run(on_device)?, expected, "{rule:?} D = {dim}");
        }
    }
    Ok(())
}

#[test]
fn statistics_that_stay_give_the_bits_of_those_that_return() -> Result<(), Error> {
    for dim in [32, 300] {
        let fixture = Fixture::new(dim)?;
        let (device, gradients) = (&fixture.device, &fixture.gradients);
        let one_way = fixture.problem(&Contrast::info_nce(0.1)?)?;
        for problem in [fixture.problem(&Contrast::clip(7.5)?)?, one_way] {
            let name = problem.contrast().name();
            let similarity = Similarity::new(device, 0);
            let forward = similarity.forward(&problem)?;
            let run = |statistics: &DeviceStatistics<HostDevice>| -> Result<_, Error> {
                let numbers = similarity.backward(&problem, statistics, 2.0, gradients)?;
                Ok((numbers.read(device)?[1].to_bits(), fixture.gradients()?))
            };
            let kept = run(&forward.statistics)?;
            let (_, statistics) = forward.read(device)?;
            let returned = run(&DeviceStatistics::upload(device, &statistics)?)?;
            assert_eq!(kept, returned, "{name} D = {dim}");
        }
        // What another loss made of them is not taken for this one's.
        let dcl = Contrast::info_nce(0.1)?.with_rule(RowRule::Decoupled { sigma: None })?;
        let dcl = fixture.problem(&dcl)?;
        let similarity = Similarity::new(device, 0);
        let mut found = Vec::new();
        for problem in [&one_way, &dcl] {
            let statistics = similarity.forward(problem)?.statistics;
            similarity.backward(&dcl, &statistics, 1.0, gradients)?;
            found.push(fixture.gradients()?);
        }
        assert_eq!(found[0], found[1], "D = {dim}");

        let forward = similarity.forward(&one_way)?;
        let clip = fixture.problem(&Contrast::clip(7.5)?)?;
        let refused = similarity.backward(&clip, &forward.statistics, 2.0, gradients);
        assert!(matches!(
            refused,
            Err(Error::Rows {
                argument: "statistics.columns",
                ..
            })
        ));
    }
    Ok(())
}

#[test]
fn which_block_computes_a_piece_does_not_change_it() -> Result<(), Error> {
    // Seven tiles of anchors, and so few candidates that no number of multiprocessors cuts them into parts.
    const ANCHORS: usize = 800;
    for dim in [40, 264] {
        let contrast = Contrast::info_nce(0.1)?;
        let run = |multiprocessors| -> Result<_, Error> {
            let mut device = HostDevice::new(Schedule::Mixed, 5, multiprocessors);
            device.warpgroups = true;
            let mut fixture = Fixture::on(device, ANCHORS, 30, dim)?;
            fixture.gradients.dk = None;
            let positives = Positives::Index(fixture.indices(&index(ANCHORS, 30))?);
            let problem = posed(&contrast, [fixture.q, fixture.k, fixture.q], positives)?;
            let similarity = Similarity::new(&fixture.device, 1 << 20);
            let forward = similarity.forward(&problem)?;
            let results = similarity.value_and_grad(&problem, 1.0, &fixture.gradients)?;
            Ok((
                forward.read(&fixture.device)?,
                results.read(&fixture.device)?,
                fixture.gradients()?,
            ))
        };
        let alone = run(64)?;
        for multiprocessors in [1, 3, 4] {
            assert_eq!(run(multiprocessors)?, alone, "D = {dim}, {multiprocessors}");
        }
    }
    Ok(())
}

#[test]
fn anchors_that_leave_the_cache_too_little_run_in_groups() -> Result<(), Error> {
    const ANCHORS: usize = 3_000;
    let run = |cache_bytes| -> Result<_, Error> {
        let mut device = HostDevice::new(Schedule::Mixed, 5, 48);
        device.warpgroups = true;
        device.cache_bytes = cache_bytes;
        let fixture = Fixture::on(device, ANCHORS, 700, 264)?;
        let similarity = Similarity::new(&fixture.device, 0);
        let problem = fixture.problem(&Contrast::moco(0.1)?)?;
        let prepared = similarity.prepare(&problem)?;
        let cut = similarity.cut(prepared.arithmetic, prepared.anchor_rows, ANCHORS, 700);
        let (_, statistics) = similarity.forward(&problem)?.read(&fixture.device)?;
        Ok((cut, statistics.rows.negatives_lse))
    };
    let (together, expected) = run(50 << 20)?;
    let (grouped, found) = run(1 << 20)?;
    // 24 row tiles of clusters side by side, or 11; 24 clusters then have three splits at least.
    assert_eq!((together.grid(24).group, grouped.grid(24).group), (24, 11));
    assert_eq!(grouped.parts, 3);
    for (row, (x, y)) in found.iter().zip(&expected).enumerate() {
        let near = abs_diff_eq!(x, y, epsilon = 1e-5 * y.abs());
        assert!(near, "row {row}: {x}, {y}");
    }
    Ok(())
}

#[test]
fn rows_with_gaps_give_the_bits_of_those_without() -> Result<(), Error> {
    for dim in [64, 264] {
        let index: Vec<u32> = (0..ROWS).map(|i| (i * i % 9) as u32).collect();
        for (contrast, by_index) in [
            (Contrast::info_nce(0.1)?, false),
            (Contrast::info_nce(0.1)?, true),
            (Contrast::clip(10.0)?, false),
        ] {
            let run = |gap| -> Result<_, Error> {
                let device = HostDevice::new(Schedule::Late, 5, 3);
                let mut fixture = Fixture::with_gaps(device, ROWS, ROWS, dim, gap)?;
                let positives = match by_index {
                    true => Positives::Index(fixture.indices(&index)?),
                    false => Positives::DIAGONAL,
                };
                let problem = posed(&contrast, [fixture.q, fixture.k, fixture.q], positives)?;
                let similarity = Similarity::new(&fixture.device, 0);
                let results = similarity.value_and_grad(&problem, 1.0, &fixture.gradients)?;
                Ok((results.read(&fixture.device)?, fixture.gradients()?))
            };
            assert_eq!(run(1)?, run(0)?, "{} D = {dim}", contrast.name());
        }
    }
    Ok(())
}

#[test]
fn statistics_of_many_tiles_in_a_row_do_not_depend_on_the_schedule() -> Result<(), Error> {
    // A pair of blocks takes all pieces, each of three or of four tiles.
    for (rows, dim) in [(700, 40), (700, 264), (800, 40), (800, 264)] {
        let run = |schedule, seed| -> Result<_, Error> {
            let mut device = HostDevice::new(schedule, seed, 1);
            device.warpgroups = true;
            let fixture = Fixture::on(device, rows, rows, dim)?;
            let similarity = Similarity::new(&fixture.device, 0);
            let forward = similarity.forward(&fixture.problem(&Contrast::clip(10.0)?)?)?;
            forward.read(&fixture.device)
        };
        let early = run(Schedule::Early, 0)?;
        for (schedule, seed) in [(Schedule::Late, 1), (Schedule::Mixed, 2)] {
            assert_eq!(run(schedule, seed)?, early, "{schedule:?}, {rows} × {dim}");
        }
    }
    Ok(())
}

#[test]
fn results_do_not_depend_on_the_schedule_or_the_order_of_threads() -> Result<(), Error> {
    for (dim, hopper) in [(40, false), (264, false), (40, true), (264, true)] {
        let (q, k) = (numbers::<bf16>(90, dim, 1), numbers::<bf16>(150, dim, 2));
        let q = Rows::new(&q, 90, dim)?;
        let k = Rows::new(&k, 150, dim)?;
        for contrast in [Contrast::nt_xent(0.1)?, Contrast::moco(0.1)?] {
            let problem = posed(&contrast, [q, k, q], Positives::DIAGONAL)?;
            let run = |schedule, seed| -> Result<_, Error> {
                let mut dq = vec![f32::NAN; 90 * dim];
                let gradients = Gradients::new(RowsMut::new(&mut dq, 90, dim)?, None);
                let mut engine = HostEngine::new(schedule, seed);
                if hopper {
                    engine = engine.with_hopper_kernels();
                }
                let value = engine.value_and_grad(&problem, 1.0, gradients)?;
                Ok((value, dq))
            };
            let expected = run(Schedule::Early, 0)?;
            assert!(expected.1.iter().all(|number| number.is_finite()));
            for seed in 1..4 {
                for schedule in [Schedule::Late, Schedule::Early, Schedule::Mixed] {
                    let found = run(schedule, seed)?;
                    assert_eq!(found, expected, "{schedule:?}, {seed}, D = {dim}, {hopper}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn products_of_tf32_are_used_when_asked_and_are_off_by_their_rounding() -> Result<(), Error> {
    for dim in [48, 128, 200, 300] {
        let device = HostDevice::new(Schedule::Late, 5, 3);
        let (mut held, mut matrices) = (Vec::new(), Vec::new());
        for seed in 0..4 {
            let buffer = device.memory(4 * ROWS * dim)?;
            let address = HostDevice::address(&buffer);
            if seed < 2 {
                let unit = 1.0 / (dim as f32).sqrt();
                let numbers: Vec<f32> = numbers(ROWS, dim, seed);
                let numbers: Vec<f32> = numbers.iter().map(|x| x * unit).collect();
                device.write(address, bytemuck::cast_slice(&numbers))?;
            }
            held.push(buffer);
            matrices.push(DeviceMatrix {
                address,
                rows: ROWS,
                dim,
                stride: dim,
                dtype: DType::F32,
            });
        }
        let gradients = Gradients::new(matrices[2], Some(matrices[3]));
        let read = |matrix: DeviceMatrix| -> Result<Vec<f32>, Error> {
            let mut numbers = vec![0.0; ROWS * dim];
            device.read(matrix.address, bytemuck::cast_slice_mut(&mut numbers))?;
            Ok(numbers)
        };
        let largest = |numbers: &[f32]| numbers.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        // Off by more than three products would leave, and by no more than their rounding: a logit by
        // s·2·2⁻¹¹·⟨|q|, |k|⟩ at most, a weight by as much, relatively; far less as signs differ.
        let judge = |what: &str, exact: &[f32], rounded: &[f32]| {
            let off = exact.iter().zip(rounded).map(|(a, b)| (a - b).abs());
            let share = off.fold(0.0f32, f32::max) / largest(exact);
            assert!((1e-5..1e-2).contains(&share), "{what}, D = {dim}: {share}");
        };
        // Statistics first, and found on the way.
        for contrast in [Contrast::clip(5.0)?, Contrast::info_nce(0.2)?] {
            let problem = contrast.on(Inputs::pair(matrices[0], matrices[1]))?;
            let run = |tf32| -> Result<_, Error> {
                let similarity = Similarity::new(&device, 0).with_tf32(tf32);
                let results = similarity.value_and_grad(&problem, 1.0, &gradients)?;
                let ([loss, _], _) = results.read(&device)?;
                Ok((loss, read(matrices[2])?, read(matrices[3])?))
            };
            let (exact, rounded) = (run(false)?, run(true)?);
            judge("dq", &exact.1, &rounded.1);
            judge("dk", &exact.2, &rounded.2);
            assert_abs_diff_eq!(exact.0, rounded.0, epsilon = 5e-3 * exact.0);
            assert_ne!(exact.0.to_bits(), rounded.0.to_bits());
        }
        let best = |tf32| -> Result<_, Error> {
            let similarity = Similarity::new(&device, 0).with_tf32(tf32);
            let best = similarity.top_k(matrices[0], matrices[1], 3, false)?;
            best.read(&device)
        };
        judge("top-k", &best(false)?.scores, &best(true)?.scores);
    }
    Ok(())
}

#[test]
fn parts_cover_all_tiles_and_leave_no_part_empty() {
    for multiprocessors in [1, 3, 132] {
        let device = HostDevice::new(Schedule::Late, 0, multiprocessors);
        let similarity = Similarity::new(&device, 0);
        for blocks in [1, 2, 64, 1000] {
            for tiles in [1, 2, 7, 1024, 100_000] {
                for resident in [1, 2] {
                    let (parts, per_part) = similarity.split(blocks, tiles, resident);
                    let (parts, per_part) = (parts as usize, per_part as usize);
                    assert!(parts * per_part >= tiles && (parts - 1) * per_part < tiles);
                }
            }
        }
    }
    // 256 anchors against a queue of 65,536 fill a device of 132 multiprocessors.
    let device = HostDevice::new(Schedule::Late, 0, 132);
    let (parts, _) = Similarity::new(&device, 0).split(2, 1024, 1);
    assert!((60..=66).contains(&parts), "{parts}");
}

#[test]
fn exponentials_go_without_an_offset_only_where_all_logits_are_bounded() -> Result<(), Error> {
    let device = HostDevice::new(Schedule::Mixed, 3, 4);
    let similarity = Similarity::new(&device, 1 << 16);
    // Rows of 16 numbers `size`. With all sizes 1, s⟨q, k⟩ = 32, 46 in base 2; the bound is 80.
    let bounded = |q: f32, own: f32, queue: f32| -> Result<u32, Error> {
        let mut buffers = Vec::new();
        let mut matrix = |rows: usize, size: f32| -> Result<DeviceMatrix, Error> {
            let buffer = device.allocate(rows * 16 * 4)?;
            let address = HostDevice::address(&buffer);
            device.write(address, bytemuck::cast_slice(&vec![size; rows * 16]))?;
            buffers.push(buffer);
            Ok(DeviceMatrix {
                address,
                rows,
                dim: 16,
                stride: 16,
                dtype: DType::F32,
            })
        };
        let inputs = Inputs::Queue {
            q: matrix(3, q)?,
            own_key: matrix(3, own)?,
            queue: matrix(5, queue)?,
        };
        let problem = Contrast::moco(0.5)?.on(inputs)?;
        let prepared = similarity.prepare(&problem)?;
        let positives = similarity.positives(&prepared)?;
        let bound = similarity.bound(&prepared, &positives, ExponentRange::WIDE)?;
        Ok(bound.read(&device)?[0].to_bits())
    };
    assert_eq!(bounded(1.0, 1.0, 1.0)?, 1);
    assert_eq!(bounded(1.0, 1.0, 2.0)?, 0, "a candidate's logit");
    assert_eq!(bounded(1.0, -2.0, 1.0)?, 0, "the logit of a key of its own");
    assert_eq!(bounded(1e-6, 1.0, 1e5)?, 0, "norms far from 1");
    Ok(())
}
