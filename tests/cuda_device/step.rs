//! Compares a step in one graph with its verbs one by one on another handle.

use half::bf16;
use infonce::cuda::{
    CudaBuffer, CudaDevice, CudaEngine, CudaQueue, CudaResults, CudaRows, CudaRowsMut, CudaStep,
    CudaStepBuilder, CudaVector, CudaVectorMut, StepInputs,
};
use infonce::{
    Contrast, CudaError, Engine, Error, Evaluation, Gradients, Inputs, KeyQueue, MomentumSchedule,
    MomentumTensor, NO_POSITIVE, Positives,
};

use super::{Test, aliasing, bits};

pub const TESTS: &[(&str, Test)] = tests![
    a_recorded_step_gives_the_bits_of_its_verbs,
    a_recorded_step_of_moco_advances_queue_and_key_encoder,
    a_recorded_step_reads_the_positives_of_each_run,
    a_step_reads_a_scale_that_is_lent_to_it,
    a_recorded_step_allocates_nothing_when_it_runs,
    a_graphs_workspace_serves_nothing_else,
    a_step_that_cannot_be_recorded_is_refused,
];

const DIM: usize = 24;
const EPSILON: f32 = 1e-12;
const UPSTREAM: f32 = 3.0;

/// Embeddings that no two steps share.
fn embeddings(rows: usize, seed: usize) -> Vec<bf16> {
    let element = |i: usize| bf16::from_f32(((i * 37 + seed * 101) as f32).sin());
    (0..rows * DIM).map(element).collect()
}

/// Unit rows and the norms, as the device computes them.
struct Unit {
    rows: CudaBuffer<bf16>,
    norms: CudaBuffer<f32>,
}

impl Unit {
    fn new(engine: &CudaEngine, x: &[bf16]) -> Result<Self, Error> {
        let (device, count) = (engine.device(), x.len() / DIM);
        let x = CudaBuffer::upload(device, x)?;
        let mut unit = Self {
            rows: CudaBuffer::zeroed(device, x.len())?,
            norms: CudaBuffer::zeroed(device, count)?,
        };
        let y = unit.rows.rows_mut(count, DIM)?;
        engine.normalize(x.rows(count, DIM)?, y, unit.norms.vector_mut()?, EPSILON)?;
        Ok(unit)
    }

    fn view(&self) -> Result<CudaRows<'_, bf16>, Error> {
        self.rows.rows(self.norms.len(), DIM)
    }

    fn backward(&self, engine: &CudaEngine, dy: &CudaBuffer<f32>) -> Result<Vec<u32>, Error> {
        let rows = self.norms.len();
        let mut dx = CudaBuffer::<f32>::zeroed(engine.device(), rows * DIM)?;
        let (y, norms) = (self.view()?, self.norms.vector()?);
        let to = dx.rows_mut(rows, DIM)?;
        engine.normalize_backward(y, norms, dy.rows(rows, DIM)?, to, EPSILON)?;
        Ok(bits(&dx.download()?))
    }
}

/// Bits of loss and dscale, of dq, and of dk.
type Left = ([u32; 2], Vec<u32>, Option<Vec<u32>>);

/// Bits of loss and dscale.
fn loss_and_dscale(results: &CudaResults) -> Result<[u32; 2], Error> {
    Ok([results.loss()?, results.dscale()?].map(f32::to_bits))
}

/// What the last launch of a step left.
fn left(step: &CudaStep<'_, bf16, f32>, device: &CudaDevice) -> Result<Left, Error> {
    let gradients = step.gradients();
    let dq = bits(&gradients.dq.download(device)?);
    let dk = gradients.dk.map(|dk| dk.download(device)).transpose()?;
    let dk = dk.as_deref().map(bits);
    Ok((loss_and_dscale(step.results())?, dq, dk))
}

/// What the verbs of a step leave, called one by one.
fn plain(
    engine: &CudaEngine,
    contrast: &Contrast,
    q: &[bf16],
    k: Option<&[bf16]>,
    positives: Positives<CudaVector<'_, u32>>,
    queue: Option<&mut CudaQueue<bf16>>,
    dk: bool,
) -> Result<Left, Error> {
    let device = engine.device();
    let anchors = Unit::new(engine, q)?;
    let keys = k.map(|k| Unit::new(engine, k)).transpose()?;
    let q = anchors.view()?;
    let k = keys.as_ref().map(Unit::view).transpose()?;
    let filled = queue.as_ref().and_then(|queue| queue.filled());
    let inputs = match (k, filled) {
        (None, _) => Inputs::Shared { z: q },
        (Some(k), None) => Inputs::Pair { q, k, positives },
        (Some(own_key), Some(queue)) => Inputs::Queue { q, own_key, queue },
    };
    let unwritten = |unit: &Unit| CudaBuffer::<f32>::zeroed(device, unit.rows.len());
    let mut dq = unwritten(&anchors)?;
    let mut of_keys = keys.as_ref().filter(|_| dk).map(unwritten).transpose()?;
    let to_keys = match (&mut of_keys, &keys) {
        (Some(dk), Some(keys)) => Some(dk.rows_mut(keys.norms.len(), DIM)?),
        _ => None,
    };
    let gradients = Gradients::new(dq.rows_mut(anchors.norms.len(), DIM)?, to_keys);
    let value = engine.value_and_grad(&contrast.on(inputs)?, UPSTREAM, gradients)?;
    let loss = loss_and_dscale(&value)?;
    let dq = anchors.backward(engine, &dq)?;
    let dk = match (&keys, &of_keys) {
        (Some(keys), Some(dk)) => Some(keys.backward(engine, dk)?),
        _ => None,
    };
    if let (Some(queue), Some(k)) = (queue, k) {
        engine.enqueue(queue, k)?;
    }
    Ok((loss, dq, dk))
}

fn a_recorded_step_gives_the_bits_of_its_verbs(device: &CudaDevice) -> Result<(), Error> {
    let engine = CudaEngine::on(device.clone());
    let apart = CudaEngine::on(device.with_new_stream()?);
    for (contrast, key_rows, dk) in [
        (Contrast::nt_xent(0.125)?, None, false),
        (Contrast::clip(8.0)?, Some(14), true),
        (Contrast::clip(8.0)?, Some(14), false),
        (Contrast::dcl(0.125)?, None, false),
        (Contrast::info_nce(0.125)?, Some(19), true),
    ] {
        let mut q = CudaBuffer::<bf16>::zeroed(device, 14 * DIM)?;
        let mut dq = CudaBuffer::<f32>::zeroed(device, 14 * DIM)?;
        let keys = key_rows.unwrap_or(1);
        let mut k = CudaBuffer::<bf16>::zeroed(device, keys * DIM)?;
        let mut of_keys = CudaBuffer::<f32>::zeroed(device, keys * DIM)?;
        let q = q.rows_mut(14, DIM)?;
        let inputs = match key_rows {
            None => StepInputs::Shared { z: q },
            Some(rows) => StepInputs::Pair {
                q,
                k: k.rows_mut(rows, DIM)?,
                positives: Positives::DIAGONAL,
            },
        };
        let to_keys = match dk {
            true => Some(of_keys.rows_mut(keys, DIM)?),
            false => None,
        };
        let gradients = Gradients::new(dq.rows_mut(14, DIM)?, to_keys);
        let mut step = engine
            .step(&contrast, inputs, gradients)
            .with_upstream(UPSTREAM)
            .with_epsilon(EPSILON)
            .record()?;
        for run in 0..5 {
            let q = embeddings(14, run);
            step.anchors_mut().upload(device, &q)?;
            let k = key_rows.map(|rows| embeddings(rows, 10 + run));
            if let (Some(mut keys), Some(k)) = (step.keys_mut(), &k) {
                keys.upload(device, k)?;
            }
            step.launch()?;
            let (k, same) = (k.as_deref(), Positives::DIAGONAL);
            let expected = plain(&apart, &contrast, &q, k, same, None, dk)?;
            assert!(step.loss()?.is_finite());
            let found = left(&step, device)?;
            assert_eq!(found, expected, "{} run {run}", contrast.name());
        }
    }
    Ok(())
}

/// The caller changes indices, or the anchors' labels, between two launches.
fn a_recorded_step_reads_the_positives_of_each_run(device: &CudaDevice) -> Result<(), Error> {
    next_positives_by(false, device)?;
    next_positives_by(true, device)
}

fn next_positives_by(labels: bool, device: &CudaDevice) -> Result<(), Error> {
    const ANCHORS: usize = 14;
    const KEYS: usize = 19;
    let engine = CudaEngine::on(device.clone());
    let apart = CudaEngine::on(device.with_new_stream()?);
    let contrast = Contrast::info_nce(0.125)?;
    let (q, k) = (embeddings(ANCHORS, 1), embeddings(KEYS, 2));
    let mut anchors = CudaBuffer::upload(device, &q)?;
    let mut keys = CudaBuffer::upload(device, &k)?;
    let mut dq = CudaBuffer::<f32>::zeroed(device, ANCHORS * DIM)?;
    let mut dk = CudaBuffer::<f32>::zeroed(device, KEYS * DIM)?;
    let mut index = CudaBuffer::<u32>::zeroed(device, ANCHORS)?;
    // SAFETY: the buffer outlives the step, and is written to in the order of the stream.
    let lent = unsafe { CudaVector::<u32>::from_raw(index.address(), ANCHORS, device)? };
    // The candidates' labels are their indices, so labels and indices give the same positives.
    let own: Vec<u32> = (0..KEYS as u32).collect();
    let own = CudaBuffer::upload(device, &own)?;
    let inputs = StepInputs::Pair {
        q: anchors.rows_mut(ANCHORS, DIM)?,
        k: keys.rows_mut(KEYS, DIM)?,
        positives: match labels {
            false => Positives::Index(lent),
            true => Positives::Labels {
                anchors: lent,
                candidates: own.vector()?,
            },
        },
    };
    let gradients = Gradients::new(dq.rows_mut(ANCHORS, DIM)?, Some(dk.rows_mut(KEYS, DIM)?));
    let mut step = engine
        .step(&contrast, inputs, gradients)
        .with_upstream(UPSTREAM)
        .record()?;
    let mut losses = Vec::new();
    // Each anchor has its own positive; all have one; some have none.
    let batches: [fn(u32) -> u32; 3] = [
        |i| i * 5 % KEYS as u32,
        |_| 7,
        |i| if i % 3 == 0 { NO_POSITIVE } else { 18 - i },
    ];
    for of in batches {
        let batch: Vec<u32> = (0..ANCHORS as u32).map(of).collect();
        index.write(&batch)?;
        step.launch()?;
        let found = left(&step, device)?;
        let batch = CudaBuffer::upload(apart.device(), &batch)?;
        let positives = Positives::Index(batch.vector()?);
        let expected = plain(&apart, &contrast, &q, Some(&k), positives, None, true)?;
        assert_eq!(found, expected);
        losses.push(found.0);
    }
    losses.dedup();
    assert_eq!(losses.len(), batches.len(), "each batch has its own loss");
    Ok(())
}

/// A full queue, whose next key goes to row 3.
fn full(capacity: usize) -> Result<KeyQueue<bf16>, Error> {
    KeyQueue::restore(capacity, DIM, capacity, 3, &embeddings(capacity, 99))
}

fn a_recorded_step_of_moco_advances_queue_and_key_encoder(
    device: &CudaDevice,
) -> Result<(), Error> {
    let engine = CudaEngine::on(device.clone());
    let apart = CudaEngine::on(device.with_new_stream()?);
    const LENGTH: usize = 5001;
    // A batch that does not divide the capacity, and one that is larger.
    for (batch, capacity) in [(7, 20), (19, 8)] {
        let parameters = |seed: u32| -> Vec<f32> {
            let element = |i: u32| ((i * 29 + seed * 7) as f32).cos();
            (0..LENGTH as u32).map(element).collect()
        };
        let mut query = CudaBuffer::<f32>::zeroed(device, LENGTH)?;
        let mut key = CudaBuffer::upload(device, &parameters(0))?;
        let mut shadow = CudaBuffer::<f32>::zeroed(device, LENGTH)?;
        let mut plain_key = CudaBuffer::upload(apart.device(), &parameters(0))?;
        let mut q = CudaBuffer::<bf16>::zeroed(device, batch * DIM)?;
        let mut own_key = CudaBuffer::<bf16>::zeroed(device, batch * DIM)?;
        let mut dq = CudaBuffer::<f32>::zeroed(device, batch * DIM)?;
        let mut plain_queue = CudaQueue::from_host(apart.device(), &full(capacity)?)?;
        let inputs = StepInputs::Queue {
            q: q.rows_mut(batch, DIM)?,
            own_key: own_key.rows_mut(batch, DIM)?,
            queue: CudaQueue::from_host(device, &full(capacity)?)?,
        };
        let gradients = Gradients::new(dq.rows_mut(batch, DIM)?, None);
        let schedule = MomentumSchedule::cosine(0.9, 5)?;
        let tensor = MomentumTensor {
            // SAFETY: the buffer outlives the step, and is written to in the order of the stream.
            query: unsafe { CudaVector::<f32>::from_raw(query.address(), LENGTH, device)? },
            key: key.vector_mut()?,
            shadow: Some(shadow.vector_mut()?),
        };
        let mut step = engine
            .step(&Contrast::moco(0.125)?, inputs, gradients)
            .with_upstream(UPSTREAM)
            .with_momentum(schedule.at(0), vec![tensor])?
            .record()?;
        for run in 0..5 {
            let (q, k) = (embeddings(batch, run), embeddings(batch, 10 + run));
            let scale = [8.0, 8.0, 4.0, 16.0, 2.0][run];
            let m = schedule.at(run as u64);
            query.write(&parameters(1 + run as u32))?;
            step.anchors_mut().upload(device, &q)?;
            step.keys_mut().unwrap().upload(device, &k)?;
            if run > 0 {
                step.set_scale(scale)?;
                step.set_momentum(m)?;
            }
            step.launch()?;
            let found = left(&step, device)?;
            let contrast = Contrast::moco(1.0 / scale)?;
            let queue = Some(&mut plain_queue);
            let (k, none) = (Some(&k[..]), Positives::DIAGONAL);
            let expected = plain(&apart, &contrast, &q, k, none, queue, false)?;
            assert_eq!(found, expected, "{batch} of {capacity}, run {run}");
            let advanced = step.queue().unwrap().to_host()?;
            assert_eq!(advanced, plain_queue.to_host()?, "run {run}");

            let query = CudaBuffer::upload(apart.device(), &parameters(1 + run as u32))?;
            let mut tensors = [MomentumTensor {
                query: query.vector()?,
                key: plain_key.vector_mut()?,
                shadow: None,
            }];
            apart.momentum_update(m, &mut tensors)?;
        }
        // Enqueueing continues where the step left the queue.
        let mut queue = step.into_queue().unwrap();
        let more = embeddings(5, 50);
        for (engine, queue) in [(&engine, &mut queue), (&apart, &mut plain_queue)] {
            let more = CudaBuffer::upload(engine.device(), &more)?;
            engine.enqueue(queue, more.rows(5, DIM)?)?;
        }
        assert_eq!(queue.to_host()?, plain_queue.to_host()?);
        let expected = bits(&plain_key.download()?);
        assert_eq!(bits(&key.download()?), expected);
        assert_eq!(bits(&shadow.download()?), expected);
    }
    Ok(())
}

/// A step of SimCLR.
fn simclr<'a>(
    engine: &CudaEngine,
    z: &'a mut CudaBuffer<bf16>,
    dz: &'a mut CudaBuffer<f32>,
) -> Result<CudaStepBuilder<'a, bf16, f32>, Error> {
    let rows = z.len() / DIM;
    let inputs = StepInputs::Shared {
        z: z.rows_mut(rows, DIM)?,
    };
    let gradients = Gradients::new(dz.rows_mut(rows, DIM)?, None);
    Ok(engine.step(&Contrast::nt_xent(0.125)?, inputs, gradients))
}

fn a_step_reads_a_scale_that_is_lent_to_it(device: &CudaDevice) -> Result<(), Error> {
    let engine = CudaEngine::on(device.clone());
    let apart = CudaEngine::on(device.with_new_stream()?);
    let z = embeddings(6, 1);
    let mut buffer = CudaBuffer::upload(device, &z)?;
    let mut dz = CudaBuffer::<f32>::zeroed(device, 6 * DIM)?;
    let mut scale = CudaBuffer::upload(device, &[2.0f32])?;
    let loss = |scale: f32| -> Result<u32, Error> {
        let contrast = Contrast::nt_xent(1.0 / scale)?;
        let views = Positives::DIAGONAL;
        Ok(plain(&apart, &contrast, &z, None, views, None, false)?.0[0])
    };
    // SAFETY: the buffer outlives the step, and is written to in the order of the stream.
    let lent = unsafe { CudaVectorMut::<f32>::from_raw(scale.address(), 1, device)? };
    let mut step = simclr(&engine, &mut buffer, &mut dz)?
        .with_scale(lent)
        .record()?;
    step.launch()?;
    assert_eq!(step.loss()?.to_bits(), loss(2.0)?);
    scale.write(&[16.0])?;
    step.launch()?;
    assert_eq!(step.loss()?.to_bits(), loss(16.0)?);
    step.set_scale(4.0)?;
    step.launch()?;
    assert_eq!(step.loss()?.to_bits(), loss(4.0)?);
    assert_eq!(scale.download()?, [4.0]);
    Ok(())
}

fn a_recorded_step_allocates_nothing_when_it_runs(device: &CudaDevice) -> Result<(), Error> {
    let device = device.with_new_stream()?;
    let engine = CudaEngine::on(device.clone());
    let z = embeddings(6, 2);
    let mut buffer = CudaBuffer::upload(&device, &z)?;
    let mut dz = CudaBuffer::<f32>::zeroed(&device, 6 * DIM)?;
    let mut step = simclr(&engine, &mut buffer, &mut dz)?.record()?;
    let held = device.memory_bytes();
    for scale in [2.0, 3.0, 4.0] {
        step.anchors_mut().upload(&device, &z)?;
        step.set_scale(scale)?;
        step.launch()?;
        step.loss()?;
        assert_eq!(device.memory_bytes(), held);
    }
    Ok(())
}

fn a_graphs_workspace_serves_nothing_else(device: &CudaDevice) -> Result<(), Error> {
    let device = device.with_new_stream()?;
    let engine = CudaEngine::on(device.clone());
    let z = embeddings(6, 3);
    let mut buffer = CudaBuffer::upload(&device, &z)?;
    let mut dz = CudaBuffer::<f32>::zeroed(&device, 6 * DIM)?;
    let mut step = simclr(&engine, &mut buffer, &mut dz)?.record()?;
    // Buffers of every size that the step's workspace can have.
    let mut others = Vec::new();
    for bytes in (9..18).flat_map(|power| (8..16).map(move |eighths| eighths << (power - 3))) {
        for _ in 0..4 {
            others.push(CudaBuffer::upload(&device, &vec![0xa5u8; bytes])?);
        }
    }
    step.launch()?;
    let first = bits(&step.gradients().dq.download(&device)?);
    for other in &mut others {
        assert_eq!(other.download()?, vec![0xa5; other.len()]);
        other.write(&vec![0xff; other.len()])?;
    }
    step.launch()?;
    assert_eq!(bits(&step.gradients().dq.download(&device)?), first);
    Ok(())
}

fn a_step_that_cannot_be_recorded_is_refused(device: &CudaDevice) -> Result<(), Error> {
    let engine = CudaEngine::on(device.clone());
    let mut z = CudaBuffer::<bf16>::zeroed(device, 6 * DIM)?;
    let mut dz = CudaBuffer::<f32>::zeroed(device, 6 * DIM)?;
    let (z_address, dz_address) = (z.address(), dz.address());

    let half_full = KeyQueue::restore(8, DIM, 5, 5, &embeddings(5, 1))?;
    let mut own_key = CudaBuffer::<bf16>::zeroed(device, 6 * DIM)?;
    let inputs = StepInputs::Queue {
        q: z.rows_mut(6, DIM)?,
        own_key: own_key.rows_mut(6, DIM)?,
        queue: CudaQueue::from_host(device, &half_full)?,
    };
    let gradients = Gradients::new(dz.rows_mut(6, DIM)?, None);
    let step = engine.step(&Contrast::moco(0.125)?, inputs, gradients);
    let not_full = CudaError::QueueNotFull {
        fill: 5,
        capacity: 8,
    };
    assert_eq!(step.record().err(), Some(not_full.into()));

    let labelled = full(8)?.with_labels(&[1; 8])?;
    let inputs = StepInputs::Queue {
        q: z.rows_mut(6, DIM)?,
        own_key: own_key.rows_mut(6, DIM)?,
        queue: CudaQueue::from_host(device, &labelled)?,
    };
    let gradients = Gradients::new(dz.rows_mut(6, DIM)?, None);
    let step = engine.step(&Contrast::moco(0.125)?, inputs, gradients);
    assert!(matches!(
        step.record().err(),
        Some(Error::QueueLabels { .. })
    ));

    let inputs = StepInputs::Shared {
        z: z.rows_mut(6, DIM)?,
    };
    // SAFETY: within the buffer of z; refused before anything is recorded.
    let over_input = unsafe { CudaRowsMut::<bf16>::from_raw(z_address, 6, DIM, DIM, device)? };
    let gradients = Gradients::new(over_input, None);
    let step = engine.step(&Contrast::nt_xent(0.125)?, inputs, gradients);
    assert_eq!(step.record().err(), Some(aliasing("gradients.dq", "z")));

    let query = CudaBuffer::<f32>::zeroed(device, 10)?;
    let over_gradient = MomentumTensor {
        query: query.vector()?,
        // SAFETY: within the buffer of dz; refused before anything is recorded.
        key: unsafe { CudaVectorMut::<f32>::from_raw(dz_address, 10, device)? },
        shadow: None,
    };
    let step = simclr(&engine, &mut z, &mut dz)?.with_momentum(0.5, vec![over_gradient])?;
    assert_eq!(step.record().err(), Some(aliasing("key", "gradients.dq")));

    let mut short = CudaBuffer::<f32>::zeroed(device, 9)?;
    let short = MomentumTensor {
        query: query.vector()?,
        key: short.vector_mut()?,
        shadow: None,
    };
    let refused = simclr(&engine, &mut z, &mut dz)?.with_momentum(0.5, vec![short]);
    assert!(matches!(
        refused.err(),
        Some(Error::Length {
            argument: "query",
            ..
        })
    ));

    let mut odd = CudaBuffer::<bf16>::zeroed(device, 5 * DIM)?;
    let mut of_odd = CudaBuffer::<f32>::zeroed(device, 5 * DIM)?;
    let step = simclr(&engine, &mut odd, &mut of_odd)?;
    assert!(matches!(
        step.record().err(),
        Some(Error::OddRows { given: 5 })
    ));
    let flat = simclr(&engine, &mut z, &mut dz)?.with_epsilon(0.0);
    assert!(matches!(flat.record().err(), Some(Error::Scalar { .. })));

    let inputs = StepInputs::Shared {
        z: z.rows_mut(6, DIM)?,
    };
    let adding = Gradients::new(dz.rows_mut(6, DIM)?, None).accumulating();
    let step = engine.step(&Contrast::nt_xent(0.125)?, inputs, adding);
    assert!(matches!(
        step.record().err(),
        Some(Error::Unsupported {
            option: "gradients.accumulate",
            ..
        })
    ));

    let mut step = simclr(&engine, &mut z, &mut dz)?.record()?;
    assert!(matches!(step.set_scale(-1.0), Err(Error::Scalar { .. })));
    assert!(matches!(step.set_momentum(1.1), Err(Error::Scalar { .. })));
    let recorded = device.record(|| step.launch()).map(|_| ());
    assert_eq!(recorded, Err(CudaError::Capture { call: "launch" }.into()));
    // The refused calls left the stream usable.
    step.launch()?;
    step.loss()?;
    Ok(())
}
