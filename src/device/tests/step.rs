//! A step of launches against the same verbs called one by one, step after step.

use half::{bf16, f16};

use super::{Memory, numbers};
use crate::contrast::Contrast;
use crate::device::{DeviceIndices, DeviceMatrix, DeviceMomentum, Similarity, Step, StepArguments};
use crate::element::{DType, Element};
use crate::engine::{Engine, Gradients, MomentumTensor};
use crate::error::Error;
use crate::host::{BUDGET, HostDevice, HostEngine, MULTIPROCESSORS, Schedule};
use crate::inputs::{Inputs, Positives, Problem};
use crate::momentum::MomentumSchedule;
use crate::queue::KeyQueue;
use crate::rows::{Rows, RowsMut};

const EPSILON: f32 = 1e-12;
const UPSTREAM: f32 = 3.0;

/// What a step is to leave, in bits.
#[derive(Debug, PartialEq)]
struct Left {
    loss: [u32; 2],
    dq: Vec<u32>,
    dk: Option<Vec<u32>>,
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

/// The verbs one by one.
struct Plain<T> {
    engine: HostEngine,
    queue: Option<KeyQueue<T>>,
}

impl<T: Element> Plain<T> {
    fn normalize(&self, x: &[T], dim: usize) -> Result<(Vec<T>, Vec<f32>), Error> {
        let rows = x.len() / dim;
        let (mut y, mut norms) = (vec![T::from_f32(f32::NAN); x.len()], vec![f32::NAN; rows]);
        let to = RowsMut::new(&mut y, rows, dim)?;
        let x = Rows::new(x, rows, dim)?;
        self.engine.normalize(x, to, &mut norms, EPSILON)?;
        Ok((y, norms))
    }

    fn normalize_backward(
        &self,
        (y, norms): &(Vec<T>, Vec<f32>),
        dy: &[f32],
        dim: usize,
    ) -> Result<Vec<u32>, Error> {
        let rows = norms.len();
        let mut dx = vec![f32::NAN; y.len()];
        let to = RowsMut::new(&mut dx, rows, dim)?;
        let (y, dy) = (Rows::new(y, rows, dim)?, Rows::new(dy, rows, dim)?);
        self.engine.normalize_backward(y, norms, dy, to, EPSILON)?;
        Ok(bits(&dx))
    }

    fn step(
        &mut self,
        contrast: &Contrast,
        q: &[T],
        k: Option<&[T]>,
        positives: Positives<&[u32]>,
        dk: bool,
        dim: usize,
    ) -> Result<Left, Error> {
        let rows = q.len() / dim;
        let anchors = self.normalize(q, dim)?;
        let keys = k.map(|k| self.normalize(k, dim)).transpose()?;
        let q = Rows::new(&anchors.0, rows, dim)?;
        let k = match &keys {
            Some((k, norms)) => Some(Rows::new(k, norms.len(), dim)?),
            None => None,
        };
        let queue = self.queue.as_ref().and_then(KeyQueue::filled);
        let own_key = k.unwrap_or(q);
        let problem = contrast.pose([q, queue.unwrap_or(own_key), own_key], positives)?;
        let mut dq = vec![f32::NAN; rows * dim];
        let key_rows = keys.as_ref().map_or(0, |(_, norms)| norms.len());
        let mut of_keys = vec![f32::NAN; key_rows * dim];
        let of_keys_wanted = match dk {
            true => Some(RowsMut::new(&mut of_keys, key_rows, dim)?),
            false => None,
        };
        let gradients = Gradients::new(RowsMut::new(&mut dq, rows, dim)?, of_keys_wanted);
        let value = self.engine.value_and_grad(&problem, UPSTREAM, gradients)?;
        let left = Left {
            loss: [value.loss, value.dscale].map(f32::to_bits),
            dq: self.normalize_backward(&anchors, &dq, dim)?,
            dk: match (&keys, dk) {
                (Some(keys), true) => Some(self.normalize_backward(keys, &of_keys, dim)?),
                _ => None,
            },
        };
        if let (Some(queue), Some(own_key)) = (&mut self.queue, k) {
            self.engine.enqueue(queue, own_key)?;
        }
        Ok(left)
    }
}

impl Memory {
    fn new(seed: u64) -> Self {
        Self::on(HostDevice::new(Schedule::Late, seed, MULTIPROCESSORS))
    }

    fn gradient(&self, of: DeviceMatrix) -> Result<Vec<u32>, Error> {
        self.read(of.address, of.rows * of.dim)
    }
}

/// A contrast of scale s, and what it is computed on.
struct Case {
    name: &'static str,
    contrast: fn(f32) -> Result<Contrast, Error>,
    rows: usize,
    keys: Option<usize>,
    /// Whether positives are given by index.
    by_index: bool,
    dk: bool,
    /// Keys that the queue can hold.
    capacity: Option<usize>,
}

const CASES: [Case; 6] = [
    // Scales are powers of two, so that temperatures have no rounding.
    Case {
        name: "SimCLR",
        contrast: |scale| Contrast::nt_xent(1.0 / scale),
        rows: 14,
        keys: None,
        by_index: false,
        dk: false,
        capacity: None,
    },
    Case {
        name: "CLIP",
        contrast: Contrast::clip,
        rows: 9,
        keys: Some(9),
        by_index: false,
        dk: true,
        capacity: None,
    },
    Case {
        name: "InfoNCE by index, dk not wanted",
        contrast: |scale| Contrast::info_nce(1.0 / scale),
        rows: 9,
        keys: Some(13),
        by_index: true,
        dk: false,
        capacity: None,
    },
    Case {
        name: "MoCo, a batch that does not divide the queue",
        contrast: |scale| Contrast::moco(1.0 / scale),
        rows: 7,
        keys: Some(7),
        by_index: false,
        dk: false,
        capacity: Some(20),
    },
    Case {
        name: "MoCo, a batch as large as the queue",
        contrast: |scale| Contrast::moco(1.0 / scale),
        rows: 7,
        keys: Some(7),
        by_index: false,
        dk: false,
        capacity: Some(7),
    },
    Case {
        name: "MoCo, a batch larger than the queue",
        contrast: |scale| Contrast::moco(1.0 / scale),
        rows: 19,
        keys: Some(19),
        by_index: false,
        dk: false,
        capacity: Some(8),
    },
];

fn compare<T: Element>(case: &Case, dim: usize, scales: [f32; 4]) -> Result<(), Error> {
    let mut memory = Memory::new(11);
    let q = memory.matrix(case.rows, dim, T::DTYPE)?;
    let keys = match case.keys {
        Some(rows) => Some(memory.matrix(rows, dim, T::DTYPE)?),
        None => None,
    };
    let gradients = Gradients::new(
        memory.matrix(case.rows, dim, DType::F32)?,
        match keys {
            Some(keys) if case.dk => Some(memory.matrix(keys.rows, dim, DType::F32)?),
            _ => None,
        },
    );
    let index = DeviceIndices {
        address: memory.room(4 * case.rows)?,
        length: case.rows,
    };
    let mut plain = Plain {
        engine: HostEngine::new(Schedule::Early, 5),
        queue: None,
    };
    let mut ring = None;
    // Not at row 0 to begin with.
    let cursor = 3;
    if let Some(capacity) = case.capacity {
        let full: Vec<T> = numbers(capacity, dim, 40);
        let matrix = memory.matrix(capacity, dim, T::DTYPE)?;
        memory.write(matrix.address, &full)?;
        ring = Some(matrix);
        plain.queue = Some(KeyQueue::restore(capacity, dim, capacity, cursor, &full)?);
    }
    let own_key = keys.unwrap_or(q);
    let matrices = [q, ring.unwrap_or(own_key), own_key];
    let positives = match case.by_index {
        true => Positives::Index(index),
        false => Positives::DIAGONAL,
    };
    let problem = (case.contrast)(scales[0])?.pose(matrices, positives)?;
    let step = Step::new(
        &memory.device,
        &StepArguments {
            problem: &problem,
            cursor,
            gradients: &gradients,
            upstream: UPSTREAM,
            epsilon: EPSILON,
            momentum: None,
        },
    )?;
    for (nth, scale) in scales.into_iter().enumerate() {
        let of_q: Vec<T> = numbers(q.rows, dim, 50 + nth);
        memory.write(q.address, &of_q)?;
        // Positives move from step to step, too.
        let of_step = (0..case.rows).map(|i| ((i * 5 + 3 * nth) % 13) as u32);
        let of_step: Vec<u32> = of_step.collect();
        memory.write(index.address, &of_step)?;
        let of_keys = keys.map(|keys| numbers::<T>(keys.rows, dim, 60 + nth));
        if let (Some(keys), Some(of_keys)) = (keys, &of_keys) {
            memory.write(keys.address, of_keys)?;
        }
        // The first scale is the contrast's own.
        if nth > 0 {
            step.set_scale(&memory.device, scale)?;
        }
        let results = step.launch(Similarity::new(&memory.device, BUDGET))?;
        let ([loss, dscale], _) = results.read(&memory.device)?;
        let found = Left {
            loss: [loss, dscale].map(f32::to_bits),
            dq: memory.gradient(gradients.dq)?,
            dk: match gradients.dk {
                Some(dk) => Some(memory.gradient(dk)?),
                None => None,
            },
        };
        let contrast = (case.contrast)(scale)?;
        let positives = match case.by_index {
            true => Positives::Index(of_step.as_slice()),
            false => Positives::DIAGONAL,
        };
        let expected = plain.step(
            &contrast,
            &of_q,
            of_keys.as_deref(),
            positives,
            case.dk,
            dim,
        )?;
        let what = format!("{}, {}, D = {dim}, step {nth}", case.name, T::DTYPE);
        assert!(loss.is_finite(), "{what}");
        assert_eq!(found, expected, "{what}");
        if let (Some(ring), Some(queue)) = (ring, &plain.queue) {
            let keys: Vec<T> = memory.read(ring.address, ring.rows * dim)?;
            assert_eq!(keys, queue.storage(), "{what}");
        }
    }
    Ok(())
}

#[test]
fn a_step_gives_the_bits_of_its_verbs_one_by_one() -> Result<(), Error> {
    let scales = [8.0, 8.0, 4.0, 16.0];
    for case in &CASES {
        // Fused, rows that need padding, and in chunks.
        compare::<f32>(case, 24, scales)?;
        compare::<bf16>(case, 13, scales)?;
        compare::<f16>(case, 264, scales)?;
    }
    Ok(())
}

#[test]
fn a_step_updates_the_key_encoder_with_the_momentum_of_the_moment() -> Result<(), Error> {
    const LENGTHS: [usize; 3] = [5000, 1, 77];
    let mut memory = Memory::new(12);
    let z = memory.matrix(4, 8, DType::F32)?;
    let dz = memory.matrix(4, 8, DType::F32)?;
    memory.write(z.address, &numbers::<f32>(4, 8, 1))?;
    let (mut tensors, mut keys) = (Vec::new(), Vec::new());
    for (index, length) in LENGTHS.into_iter().enumerate() {
        let key = numbers::<f32>(length, 1, index);
        let tensor = DeviceMomentum {
            query: memory.room(2 * length)?,
            key: memory.room(4 * length)?,
            // The last has no shadow.
            shadow: if index < 2 {
                memory.room(2 * length)?
            } else {
                0
            },
            length,
        };
        memory.write(tensor.key, &key)?;
        tensors.push(tensor);
        keys.push((key, vec![bf16::ZERO; length]));
    }
    let schedule = MomentumSchedule::cosine(0.9, 4)?;
    let step = Step::new(
        &memory.device,
        &StepArguments {
            problem: &Contrast::nt_xent(0.5)?.on(Inputs::Shared { z })?,
            cursor: 0,
            gradients: &Gradients::new(dz, None),
            upstream: 1.0,
            epsilon: EPSILON,
            momentum: Some((schedule.at(0), DType::Bf16, &tensors)),
        },
    )?;
    let engine = HostEngine::new(Schedule::Early, 6);
    for index in 0..4 {
        let queries = LENGTHS.map(|length| numbers::<bf16>(length, 1, 7 + index));
        for (tensor, query) in tensors.iter().zip(&queries) {
            memory.write(tensor.query, query)?;
        }
        let m = schedule.at(index as u64);
        if index > 0 {
            step.set_momentum(&memory.device, m)?;
        }
        step.launch(Similarity::new(&memory.device, BUDGET))?;

        let mut plain: Vec<_> = queries
            .iter()
            .zip(&mut keys)
            .enumerate()
            .map(|(tensor, (query, (key, shadow)))| MomentumTensor {
                query: query.as_slice(),
                key: key.as_mut_slice(),
                shadow: (tensor < 2).then_some(shadow.as_mut_slice()),
            })
            .collect();
        engine.momentum_update(m, &mut plain)?;
        for (tensor, (key, shadow)) in tensors.iter().zip(&keys) {
            let found: Vec<f32> = memory.read(tensor.key, tensor.length)?;
            assert_eq!(bits(&found), bits(key), "step {index}");
            if tensor.shadow != 0 {
                let found: Vec<bf16> = memory.read(tensor.shadow, tensor.length)?;
                assert_eq!(&found, shadow, "step {index}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_step_that_cannot_be_is_refused() -> Result<(), Error> {
    let mut memory = Memory::new(13);
    let (z, dz) = (
        memory.matrix(4, 8, DType::F32)?,
        memory.matrix(4, 8, DType::F32)?,
    );
    let problem: Problem<DeviceMatrix> = Contrast::nt_xent(0.5)?.on(Inputs::Shared { z })?;
    let gradients = Gradients::new(dz, None);
    let arguments = || StepArguments {
        problem: &problem,
        cursor: 0,
        gradients: &gradients,
        upstream: 1.0,
        epsilon: EPSILON,
        momentum: None,
    };
    let refused = |arguments| Step::new(&memory.device, &arguments).err();
    let argument = |error| match error {
        Some(Error::Scalar { argument, .. } | Error::Rows { argument, .. }) => argument,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(arguments()), None);
    let flat = StepArguments {
        epsilon: 0.0,
        ..arguments()
    };
    assert_eq!(argument(refused(flat)), "epsilon");
    let backwards = StepArguments {
        momentum: Some((1.5, DType::F32, &[])),
        ..arguments()
    };
    assert_eq!(argument(refused(backwards)), "momentum");
    let short = Gradients::new(DeviceMatrix { rows: 3, ..dz }, None);
    let short = StepArguments {
        gradients: &short,
        ..arguments()
    };
    assert_eq!(argument(refused(short)), "gradients.dq");
    let added = Gradients::new(dz, None).accumulating();
    let added = StepArguments {
        gradients: &added,
        ..arguments()
    };
    assert!(matches!(refused(added), Some(Error::Unsupported { .. })));

    let no_tensors = StepArguments {
        momentum: Some((0.5, DType::F32, &[])),
        ..arguments()
    };
    assert_eq!(refused(no_tensors), None);

    let step = Step::new(&memory.device, &arguments())?;
    assert_eq!(argument(step.set_scale(&memory.device, 0.0).err()), "scale");
    assert_eq!(
        argument(step.set_momentum(&memory.device, -0.1).err()),
        "momentum"
    );
    Ok(())
}
