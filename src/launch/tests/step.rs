//! A step of launches against the same verbs called one by one, step after step.

use half::{bf16, f16};

use super::*;
use crate::emulator::tests::{BUDGET, SM_COUNT};
use crate::engine::{Engine, MomentumTensor};
use crate::launch::{DeviceMomentum, Rowwise, Step, StepArguments};
use crate::momentum::MomentumSchedule;
use crate::queue::KeyQueue;

const EPSILON: f32 = 1e-12;
const UPSTREAM: f32 = 3.0;

/// Results of a step, as bits: loss and dscale, dq, dk.
type Left = ([u32; 2], Vec<u32>, Option<Vec<u32>>);

fn memory(seed: u64) -> Memory {
    Memory::on(EmulatedDevice::new(Schedule::Late, seed, SM_COUNT))
}

impl Memory {
    fn left(&self, value: &Evaluated, gradients: &Gradients<DeviceMatrix>) -> Result<Left, Error> {
        let bits = |of: DeviceMatrix| self.read(of.address, of.rows * of.dim);
        Ok((
            [value.loss, value.dscale].map(f32::to_bits),
            bits(gradients.dq)?,
            gradients.dk.map(bits).transpose()?,
        ))
    }

    /// dq, and dk of the keys if there are any.
    fn gradients(
        &self,
        q: DeviceMatrix,
        keys: Option<DeviceMatrix>,
    ) -> Result<Gradients<DeviceMatrix>, Error> {
        let gradient = |of: DeviceMatrix| self.matrix([of.rows, of.dim], DType::F32, 0);
        Ok(Gradients::new(
            gradient(q)?,
            keys.map(gradient).transpose()?,
        ))
    }

    /// The verbs of a step one by one, but for the queue's.
    fn one_by_one(&self, problem: &Problem<DeviceMatrix>, dk: bool) -> Result<Left, Error> {
        let rowwise = Rowwise::new(&self.device);
        let mut sides = Vec::new();
        let unit = problem.try_map(
            |name, &given| {
                if name == "queue" {
                    return Ok(given);
                }
                let unit = self.matrix([given.rows, given.dim], given.dtype, 0)?;
                let norms = (self.unwritten(4 * given.rows)?, given.rows);
                rowwise.normalize(given, unit, norms, EPSILON)?;
                sides.push((unit, norms));
                Ok(unit)
            },
            |_, &index| Ok(index),
            |_, &floats| Ok(floats),
            |_, &scalar| Ok(scalar),
        )?;
        let keys = dk.then(|| sides[1].0);
        let (of_unit, given) = (
            self.gradients(sides[0].0, keys)?,
            self.gradients(sides[0].0, keys)?,
        );
        let similarity = Similarity::new(&self.device, BUDGET);
        let results = similarity.value_and_grad(&unit, UPSTREAM, &of_unit)?;
        let pairs = [Some((of_unit.dq, given.dq)), of_unit.dk.zip(given.dk)];
        for ((unit, norms), (dy, dx)) in sides.into_iter().zip(pairs.into_iter().flatten()) {
            rowwise.normalize_backward(unit, norms, dy, dx, EPSILON)?;
        }
        self.left(&results.read(&self.device)?, &given)
    }
}

/// A contrast of scale s, N, and M (MoCo: the queue's capacity). Scales are powers of two, so temperatures are exact.
type Case = (fn(f32) -> Result<Contrast, Error>, usize, usize);

const CASES: [Case; 6] = [
    (|scale| Contrast::nt_xent(1.0 / scale), 14, 14),
    (Contrast::clip, 9, 9),
    (|scale| Contrast::info_nce(1.0 / scale), 9, 13),
    // A batch that does not divide the queue, one as large, and a larger one.
    (|scale| Contrast::moco(1.0 / scale), 7, 20),
    (|scale| Contrast::moco(1.0 / scale), 7, 7),
    (|scale| Contrast::moco(1.0 / scale), 19, 8),
];

/// Positives are by index where they can be, and dk is wanted where columns have a loss.
fn compare<T: Element>(
    (contrast, anchors, candidates): Case,
    dim: usize,
    scales: [f32; 4],
) -> Result<(), Error> {
    let memory = memory(11);
    let engine = EmulatedEngine::new(Schedule::Early, 5);
    let at_first = contrast(scales[0])?;
    let matrix = |rows| memory.matrix([rows, dim], T::DTYPE, 0);
    let (q, k, own_key) = (matrix(anchors)?, matrix(candidates)?, matrix(anchors)?);
    // The first key does not go to row 0.
    let cursor = 3;
    let full: Vec<T> = numbers(candidates, dim, 40);
    let mut queue = KeyQueue::restore(candidates, dim, candidates, cursor, &full)?;
    memory.write(k.address, &full)?;
    let index = memory.words(&vec![0; anchors])?;
    let pose = |contrast: &Contrast| contrast.pose([q, k, own_key], Positives::Index(index));
    let dk = at_first.has_columns();
    let gradients = memory.gradients(q, dk.then_some(k))?;
    let arguments = StepArguments {
        problem: &pose(&at_first)?,
        cursor,
        gradients: &gradients,
        upstream: UPSTREAM,
        epsilon: EPSILON,
        momentum: None,
    };
    let step = Step::new(&memory.device, &arguments)?;
    for (nth, scale) in scales.into_iter().enumerate() {
        let contrast = contrast(scale)?;
        let problem = pose(&contrast)?;
        let what = format!("{}, {}, D = {dim}, step {nth}", contrast.name(), T::DTYPE);
        memory.write(q.address, &numbers::<T>(anchors, dim, 50 + nth))?;
        // Positives change from step to step, too.
        let of_step = (0..anchors).map(|i| ((i * 5 + 3 * nth) % 13) as u32);
        memory.write(index.address, &of_step.collect::<Vec<_>>())?;
        let has_queue = problem.matrices().own_keys.is_some();
        let keys = if has_queue { own_key } else { k };
        let of_keys = numbers::<T>(keys.rows, dim, 60 + nth);
        memory.write(keys.address, &of_keys)?;
        let expected = memory.one_by_one(&problem, dk)?;
        // The first scale is the contrast's own.
        if nth > 0 {
            step.set_scale(&memory.device, scale)?;
        }
        let results = step.launch(Similarity::new(&memory.device, BUDGET))?;
        let value = results.read(&memory.device)?;
        assert!(value.loss.is_finite(), "{what}");
        assert_eq!(memory.left(&value, &gradients)?, expected, "{what}");
        if has_queue {
            let (mut unit, mut norms) = (of_keys.clone(), vec![0.0; anchors]);
            let of_keys = Rows::new(&of_keys, anchors, dim)?;
            let to = RowsMut::new(&mut unit, anchors, dim)?;
            engine.normalize(of_keys, to, &mut norms, EPSILON)?;
            engine.enqueue(&mut queue, Rows::new(&unit, anchors, dim)?)?;
            assert_eq!(memory.elements::<T>(k)?, queue.storage(), "{what}");
        }
    }
    Ok(())
}

#[test]
fn a_step_gives_the_bits_of_its_verbs_one_by_one() -> Result<(), Error> {
    let scales = [8.0, 8.0, 4.0, 16.0];
    for case in CASES {
        // Fused, rows that need padding, and in chunks.
        compare::<f32>(case, 24, scales)?;
        compare::<bf16>(case, 13, scales)?;
        compare::<f16>(case, 264, scales)?;
    }
    Ok(())
}

#[test]
fn each_step_updates_the_key_encoder_with_its_momentum() -> Result<(), Error> {
    const LENGTHS: [usize; 3] = [5000, 1, 77];
    let memory = memory(12);
    let z = memory.given::<f32>(&numbers(4, 8, 1), 8, 0)?;
    let (mut tensors, mut keys) = (Vec::new(), Vec::new());
    for (index, length) in LENGTHS.into_iter().enumerate() {
        let key = numbers::<f32>(length, 1, index);
        tensors.push(DeviceMomentum {
            query: memory.unwritten(2 * length)?,
            key: memory.upload(&key)?,
            // The last has no shadow.
            shadow: match index {
                2 => 0,
                _ => memory.unwritten(2 * length)?,
            },
            length,
        });
        keys.push((key, vec![bf16::ZERO; length]));
    }
    let schedule = MomentumSchedule::cosine(0.9, 4)?;
    let step = Step::new(
        &memory.device,
        &StepArguments {
            problem: &Contrast::nt_xent(0.5)?.pose([z; 3], Positives::DIAGONAL)?,
            cursor: 0,
            gradients: &memory.gradients(z, None)?,
            upstream: 1.0,
            epsilon: EPSILON,
            momentum: Some((schedule.at(0), DType::Bf16, &tensors)),
        },
    )?;
    let engine = EmulatedEngine::new(Schedule::Early, 6);
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

        let pairs = queries.iter().zip(&mut keys).zip(&tensors);
        let plain = pairs.map(|((query, (key, shadow)), tensor)| MomentumTensor {
            query: query.as_slice(),
            key: key.as_mut_slice(),
            shadow: (tensor.shadow != 0).then_some(shadow.as_mut_slice()),
        });
        engine.momentum_update(m, &mut plain.collect::<Vec<_>>())?;
        for (tensor, (key, shadow)) in tensors.iter().zip(&keys) {
            let found: Vec<f32> = memory.read(tensor.key, tensor.length)?;
            assert_eq!(&found, key, "step {index}");
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
    let memory = memory(13);
    let z = memory.matrix([4, 8], DType::F32, 0)?;
    let problem = Contrast::nt_xent(0.5)?.pose([z; 3], Positives::DIAGONAL)?;
    let gradients = memory.gradients(z, None)?;
    let short = Gradients::new(
        DeviceMatrix {
            rows: 3,
            ..gradients.dq
        },
        None,
    );
    let added = memory.gradients(z, None)?.accumulating();
    let step = |gradients, epsilon, momentum: Option<f32>| {
        let arguments = StepArguments {
            problem: &problem,
            cursor: 0,
            gradients,
            upstream: 1.0,
            epsilon,
            momentum: momentum.map(|m| (m, DType::F32, &[][..])),
        };
        Step::new(&memory.device, &arguments)
    };
    let argument = |error| match error {
        Some(
            Error::Scalar { argument, .. }
            | Error::Rows { argument, .. }
            | Error::Unsupported {
                option: argument, ..
            },
        ) => argument,
        other => panic!("{other:?}"),
    };
    for (gradients, epsilon, momentum, expected) in [
        (&gradients, 0.0, None, "epsilon"),
        (&gradients, EPSILON, Some(1.5), "momentum"),
        (&short, EPSILON, None, "gradients.dq"),
        (&added, EPSILON, None, "gradients.accumulate"),
    ] {
        assert_eq!(argument(step(gradients, epsilon, momentum).err()), expected);
    }
    // An empty list of tensors is allowed.
    step(&gradients, EPSILON, Some(0.5))?;
    let step = step(&gradients, EPSILON, None)?;
    assert_eq!(argument(step.set_scale(&memory.device, 0.0).err()), "scale");
    let momentum = step.set_momentum(&memory.device, -0.1).err();
    assert_eq!(argument(momentum), "momentum");
    Ok(())
}
