//! Times a whole step of MoCo in one graph: normalise, loss and gradient, normalise backward, momentum update,
//! enqueue.

use criterion::Criterion;
use half::bf16;
use infonce::cuda::{
    CudaBuffer, CudaEngine, CudaQueue, CudaRowsMut, CudaVector, CudaVectorMut, StepInputs,
};
use infonce::{Contrast, Element, Error, Gradients, KeyQueue, MomentumTensor};

use super::random::{uniform, unit_rows};
use super::rig::{Prepared, Rig, element_bytes, row};
use super::rowwise::resnet50;
use super::schema::Yardstick;

const BATCH: usize = 256;
const DIM: usize = 128;

pub fn run(rig: &mut Rig, criterion: &mut Criterion) {
    let capacity = rig.rows(65_536).max(BATCH);
    let lengths: Vec<usize> = resnet50().into_iter().map(|n| rig.rows(n)).collect();
    for (wanted, lengths) in [
        ("step", Vec::new()),
        ("step with ResNet-50's momentum update", lengths),
    ] {
        let parameters = lengths.iter().sum::<usize>() as f64;
        // Queries, keys and queue are read; unit rows and gradients are written. The momentum update moves 12 bytes a
        // parameter.
        let elements = (4 * BATCH + capacity) as f64 * DIM as f64;
        let row = row(
            "MoCo",
            wanted,
            format!("N={BATCH} M={capacity} D={DIM}"),
            bf16::DTYPE,
            Some(4.0 * (BATCH * capacity * DIM) as f64),
            elements * element_bytes(bf16::DTYPE) + 12.0 * parameters,
        );
        rig.time(criterion, row, Yardstick::Product, |engine| {
            prepare(engine, capacity, &lengths)
        });
    }
}

fn prepare(engine: &CudaEngine, capacity: usize, lengths: &[usize]) -> Result<Prepared, Error> {
    let device = engine.device();
    let embeddings = |seed| CudaBuffer::upload(device, &uniform::<bf16>(BATCH * DIM, seed));
    let matrices = [
        embeddings(1)?,
        embeddings(2)?,
        CudaBuffer::zeroed(device, BATCH * DIM)?,
    ];
    // SAFETY: the buffers are owned with the step, dropped after it, and used by nothing else.
    let view = |buffer: &CudaBuffer<bf16>| unsafe {
        CudaRowsMut::from_raw(buffer.address(), BATCH, DIM, DIM, device)
    };
    let [q, own_key, dq] = &matrices;
    let keys = unit_rows::<bf16>(capacity, DIM, 3);
    let queue = KeyQueue::restore(capacity, DIM, capacity, 0, &keys)?;
    let inputs = StepInputs::Queue {
        q: view(q)?,
        own_key: view(own_key)?,
        queue: CudaQueue::from_host(device, &queue)?,
    };
    let gradients = Gradients::new(view(dq)?, None);
    let parameters: Vec<[CudaBuffer<f32>; 2]> = lengths
        .iter()
        .map(|&length| {
            let [query, key] = [1, 2].map(|seed| uniform(length, seed));
            Ok([
                CudaBuffer::upload(device, &query)?,
                CudaBuffer::upload(device, &key)?,
            ])
        })
        .collect::<Result<_, Error>>()?;
    let mut tensors = Vec::with_capacity(parameters.len());
    for [query, key] in &parameters {
        // SAFETY: as above.
        let (query, key) = unsafe {
            (
                CudaVector::<f32>::from_raw(query.address(), query.len(), device)?,
                CudaVectorMut::from_raw(key.address(), key.len(), device)?,
            )
        };
        tensors.push(MomentumTensor {
            query,
            key,
            shadow: None,
        });
    }
    device.trim();
    let (before, _) = device.memory_bytes();
    let mut step = engine.step(&Contrast::moco(0.07)?, inputs, gradients);
    if !tensors.is_empty() {
        step = step.with_momentum(0.999, tensors)?;
    }
    // The step is dropped before the memory that it uses.
    let mut owned = (step.record()?, matrices, parameters);
    let (used, free) = device.memory_bytes();
    Ok(Prepared::recorded(used + free - before, move || {
        let (step, ..) = &mut owned;
        step.launch()
    }))
}
