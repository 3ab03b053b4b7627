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
mod workspace;

use approx::{abs_diff_eq, assert_abs_diff_eq};

use super::positives::ExponentRange;
use super::{Device, DeviceIndices, DeviceMatrix, DeviceStatistics, Similarity, number_bytes};
use crate::contrast::Contrast;
use crate::element::{DType, Element};
use crate::engine::{Engine, Gradients};
use crate::error::Error;
use crate::host::{HostBuffer, HostDevice, HostEngine, Schedule};
use crate::inputs::{Inputs, Positives, Problem};
use crate::losses::RowRule;
use crate::rows::{Rows, RowsMut};
use crate::statistics::Statistics;
use half::bf16;

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

/// A device of so many multiprocessors, for the portable kernels or for those of sm_90a.
fn device(schedule: Schedule, seed: u64, multiprocessors: u32, hopper: bool) -> HostDevice {
    let mut device = HostDevice::new(schedule, seed, multiprocessors);
    device.warpgroups = hopper;
    device
}

fn engine(schedule: Schedule, seed: u64, hopper: bool) -> HostEngine {
    let engine = HostEngine::new(schedule, seed);
    match hopper {
        true => engine.with_hopper_kernels(),
        false => engine,
    }
}

/// Memory of the caller's, which stays where it is.
struct Memory {
    device: HostDevice,
    held: Vec<HostBuffer>,
}

impl Memory {
    fn on(device: HostDevice) -> Self {
        let held = Vec::new();
        Self { device, held }
    }

    fn room(&mut self, bytes: usize) -> Result<u64, Error> {
        let buffer = self.device.memory(bytes)?;
        let address = HostDevice::address(&buffer);
        self.held.push(buffer);
        Ok(address)
    }

    fn matrix(&mut self, rows: usize, dim: usize, dtype: DType) -> Result<DeviceMatrix, Error> {
        self.with_gaps(rows, dim, dtype, 0)
    }

    /// Every row after `gap` numbers that are nobody's.
    fn with_gaps(
        &mut self,
        rows: usize,
        dim: usize,
        dtype: DType,
        gap: usize,
    ) -> Result<DeviceMatrix, Error> {
        let (stride, bytes) = (gap + dim, number_bytes(dtype));
        Ok(DeviceMatrix {
            address: self.room(rows * stride * bytes)? + (gap * bytes) as u64,
            rows,
            dim,
            stride,
            dtype,
        })
    }

    /// A matrix that holds `numbers`.
    fn given<T: Element>(
        &mut self,
        numbers: &[T],
        dim: usize,
        gap: usize,
    ) -> Result<DeviceMatrix, Error> {
        let matrix = self.with_gaps(numbers.len() / dim, dim, T::DTYPE, gap)?;
        for (row, numbers) in numbers.chunks(dim).enumerate() {
            let at = row * matrix.stride * number_bytes(T::DTYPE);
            self.write(matrix.address + at as u64, numbers)?;
        }
        Ok(matrix)
    }

    fn indices(&mut self, index: &[u32]) -> Result<DeviceIndices, Error> {
        let (address, length) = (self.room(4 * index.len())?, index.len());
        self.write(address, index)?;
        Ok(DeviceIndices { address, length })
    }

    fn write<T: bytemuck::Pod>(&self, address: u64, numbers: &[T]) -> Result<(), Error> {
        self.device.write(address, bytemuck::cast_slice(numbers))
    }

    fn read<T: bytemuck::Pod>(&self, address: u64, length: usize) -> Result<Vec<T>, Error> {
        let mut numbers = vec![T::zeroed(); length];
        let bytes = bytemuck::cast_slice_mut(&mut numbers);
        self.device.read(address, bytes)?;
        Ok(numbers)
    }
}

struct Fixture {
    memory: Memory,
    q: DeviceMatrix,
    k: DeviceMatrix,
    gradients: Gradients<DeviceMatrix>,
}

const ROWS: usize = 70;

/// Loss and dscale, the statistics, and bits of dq and dk.
type Left = (([f32; 2], Statistics), Vec<u8>);

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

    fn with_gaps(
        device: HostDevice,
        anchors: usize,
        candidates: usize,
        dim: usize,
        gap: usize,
    ) -> Result<Self, Error> {
        let mut memory = Memory::on(device);
        Ok(Self {
            q: memory.given::<bf16>(&numbers(anchors, dim, 1), dim, gap)?,
            k: memory.given::<bf16>(&numbers(candidates, dim, 2), dim, gap)?,
            gradients: Gradients::new(
                memory.with_gaps(anchors, dim, DType::F32, gap)?,
                Some(memory.with_gaps(candidates, dim, DType::F32, gap)?),
            ),
            memory,
        })
    }

    /// What a call with these positives leaves.
    fn run(&self, contrast: &Contrast, positives: Positives<DeviceIndices>) -> Result<Left, Error> {
        self.run_on(contrast.pose([self.q, self.k, self.q], positives)?)
    }

    fn run_on(&self, problem: Problem<DeviceMatrix>) -> Result<Left, Error> {
        let device = &self.memory.device;
        let results = Similarity::new(device, 0).value_and_grad(&problem, 1.0, &self.gradients)?;
        Ok((results.read(device)?, self.gradients()?))
    }

    /// The contrast on the fixture's rows, on the diagonal; own keys are the anchors.
    fn problem(&self, contrast: &Contrast) -> Result<Problem<DeviceMatrix>, Error> {
        contrast.pose([self.q, self.k, self.q], Positives::DIAGONAL)
    }

    /// Bits of dq and dk.
    fn gradients(&self) -> Result<Vec<u8>, Error> {
        let mut both = Vec::new();
        for matrix in [Some(self.gradients.dq), self.gradients.dk]
            .into_iter()
            .flatten()
        {
            for row in 0..matrix.rows {
                let at = matrix.address + (4 * row * matrix.stride) as u64;
                both.extend(self.memory.read::<u8>(at, 4 * matrix.dim)?);
            }
        }
        Ok(both)
    }
}

#[test]
fn a_scale_on_the_device_gives_the_bits_of_one_on_the_host() -> Result<(), Error> {
    for dim in [32, 300] {
        let mut fixture = Fixture::new(dim)?;
        let scale = fixture.memory.room(4)?;
        fixture.memory.write(scale, &[7.5f32])?;
        for rule in [RowRule::SOFTMAX, RowRule::Debiased { prior: 0.2 }] {
            let clip = |scale| Contrast::clip(scale)?.with_rule(rule);
            let expected = fixture.run_on(fixture.problem(&clip(7.5)?)?)?;
            let on_device = fixture.problem(&clip(1.0)?)?.with_scale(scale);
            assert_eq!(fixture.run_on(on_device)?, expected, "{rule:?} D = {dim}");
        }
    }
    Ok(())
}

#[test]
fn statistics_that_stay_give_the_bits_of_those_that_return() -> Result<(), Error> {
    for dim in [32, 300] {
        let fixture = Fixture::new(dim)?;
        let (device, gradients) = (&fixture.memory.device, &fixture.gradients);
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
            let device = device(Schedule::Mixed, 5, multiprocessors, true);
            let mut fixture = Fixture::on(device, ANCHORS, 30, dim)?;
            fixture.gradients.dk = None;
            let positives = Positives::Index(fixture.memory.indices(&index(ANCHORS, 30))?);
            let problem = contrast.pose([fixture.q, fixture.k, fixture.q], positives)?;
            let similarity = Similarity::new(&fixture.memory.device, 1 << 20);
            let forward = similarity.forward(&problem)?;
            let results = similarity.value_and_grad(&problem, 1.0, &fixture.gradients)?;
            Ok((
                forward.read(&fixture.memory.device)?,
                results.read(&fixture.memory.device)?,
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
        let mut device = device(Schedule::Mixed, 5, 48, true);
        device.cache_bytes = cache_bytes;
        let fixture = Fixture::on(device, ANCHORS, 700, 264)?;
        let similarity = Similarity::new(&fixture.memory.device, 0);
        let problem = fixture.problem(&Contrast::moco(0.1)?)?;
        let prepared = similarity.prepare(&problem)?;
        let cut = similarity.cut(prepared.arithmetic, prepared.anchor_rows, ANCHORS, 700);
        let (_, statistics) = similarity.forward(&problem)?.read(&fixture.memory.device)?;
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
                    true => Positives::Index(fixture.memory.indices(&index)?),
                    false => Positives::DIAGONAL,
                };
                fixture.run(&contrast, positives)
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
            let fixture = Fixture::on(device(schedule, seed, 1, true), rows, rows, dim)?;
            let similarity = Similarity::new(&fixture.memory.device, 0);
            let forward = similarity.forward(&fixture.problem(&Contrast::clip(10.0)?)?)?;
            forward.read(&fixture.memory.device)
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
            let problem = contrast.pose([q, k, q], Positives::DIAGONAL)?;
            let run = |schedule, seed| -> Result<_, Error> {
                let mut dq = vec![f32::NAN; 90 * dim];
                let gradients = Gradients::new(RowsMut::new(&mut dq, 90, dim)?, None);
                let value =
                    engine(schedule, seed, hopper).value_and_grad(&problem, 1.0, gradients)?;
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
        let mut memory = Memory::on(HostDevice::new(Schedule::Late, 5, 3));
        let mut unit_rows = |seed| {
            let unit = 1.0 / (dim as f32).sqrt();
            let numbers: Vec<f32> = numbers(ROWS, dim, seed);
            let numbers: Vec<f32> = numbers.iter().map(|x| x * unit).collect();
            memory.given(&numbers, dim, 0)
        };
        let (q, k) = (unit_rows(0)?, unit_rows(1)?);
        let dq = memory.matrix(ROWS, dim, DType::F32)?;
        let dk = memory.matrix(ROWS, dim, DType::F32)?;
        let (device, gradients) = (&memory.device, Gradients::new(dq, Some(dk)));
        let read = |matrix: DeviceMatrix| memory.read::<f32>(matrix.address, ROWS * dim);
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
            let problem = contrast.on(Inputs::pair(q, k))?;
            let run = |tf32| -> Result<_, Error> {
                let similarity = Similarity::new(device, 0).with_tf32(tf32);
                let results = similarity.value_and_grad(&problem, 1.0, &gradients)?;
                let ([loss, _], _) = results.read(device)?;
                Ok((loss, read(dq)?, read(dk)?))
            };
            let (exact, rounded) = (run(false)?, run(true)?);
            judge("dq", &exact.1, &rounded.1);
            judge("dk", &exact.2, &rounded.2);
            assert_abs_diff_eq!(exact.0, rounded.0, epsilon = 5e-3 * exact.0);
            assert_ne!(exact.0.to_bits(), rounded.0.to_bits());
        }
        let best = |tf32| -> Result<_, Error> {
            let similarity = Similarity::new(device, 0).with_tf32(tf32);
            similarity.top_k(q, k, 3, false)?.read(device)
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
    // Rows of 16 numbers `size`. With all sizes 1, s⟨q, k⟩ = 32, 46 in base 2; the bound is 80.
    let bounded = |q: f32, own: f32, queue: f32| -> Result<u32, Error> {
        let mut memory = Memory::on(HostDevice::new(Schedule::Mixed, 3, 4));
        let mut matrix = |rows: usize, size: f32| memory.given(&vec![size; rows * 16], 16, 0);
        let inputs = Inputs::Queue {
            q: matrix(3, q)?,
            own_key: matrix(3, own)?,
            queue: matrix(5, queue)?,
        };
        let problem = Contrast::moco(0.5)?.on(inputs)?;
        let similarity = Similarity::new(&memory.device, 1 << 16);
        let prepared = similarity.prepare(&problem)?;
        let positives = similarity.positives(&prepared)?;
        let bound = similarity.bound(&prepared, &positives, ExponentRange::WIDE)?;
        Ok(bound.read(&memory.device)?[0].to_bits())
    };
    assert_eq!(bounded(1.0, 1.0, 1.0)?, 1);
    assert_eq!(bounded(1.0, 1.0, 2.0)?, 0, "a candidate's logit");
    assert_eq!(bounded(1.0, -2.0, 1.0)?, 0, "the logit of a key of its own");
    assert_eq!(bounded(1e-6, 1.0, 1e5)?, 0, "norms far from 1");
    Ok(())
}
