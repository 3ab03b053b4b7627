//! Times the memory-bound verbs against a copy in the same run.

use criterion::Criterion;
use half::bf16;
use infonce::cuda::{CudaBuffer, CudaDevice, CudaQueue, CudaVector, CudaVectorMut};
use infonce::{Element, Engine, Error, Gradients, KeyQueue, MomentumTensor, Triplet, Triplets};

use super::random::{uniform, unit_rows};
use super::rig::{Prepared, Rig, element_bytes, row};
use super::schema::Yardstick;

const EPSILON: f32 = 1e-12;

pub fn run(rig: &mut Rig, criterion: &mut Criterion) {
    normalize::<bf16>(rig, criterion);
    normalize::<f32>(rig, criterion);
    momentum::<f32>(rig, criterion, false);
    momentum::<bf16>(rig, criterion, true);
    enqueue(rig, criterion);
    triplet(rig, criterion);
}

/// 65,536 rows of 1,024 elements: 128 MiB in bf16.
fn normalize<T: Element>(rig: &mut Rig, criterion: &mut Criterion) {
    let (n, d) = (rig.rows(65_536), 1024);
    let shape = || format!("N={n} D={d}");
    let matrix = (n * d) as f64 * element_bytes(T::DTYPE);
    let norms_bytes = 4.0 * n as f64;
    let bytes = 2.0 * matrix + norms_bytes;
    let forward = row("normalize", "rows", shape(), T::DTYPE, None, bytes);
    rig.time(criterion, forward, Yardstick::Copy, |engine| {
        let device = engine.device();
        let keeps = (
            CudaBuffer::upload(device, &uniform::<T>(n * d, 1))?,
            CudaBuffer::<T>::zeroed(device, n * d)?,
            CudaBuffer::<f32>::zeroed(device, n)?,
        );
        Prepared::new(device, keeps, |(x, y, norms)| {
            engine.normalize(
                x.rows(n, d)?,
                y.rows_mut(n, d)?,
                norms.vector_mut()?,
                EPSILON,
            )
        })
    });
    let bytes = 3.0 * matrix + norms_bytes;
    let backward = row("normalize", "gradient", shape(), T::DTYPE, None, bytes);
    rig.time(criterion, backward, Yardstick::Copy, |engine| {
        let device = engine.device();
        let keeps = (
            CudaBuffer::upload(device, &unit_rows::<T>(n, d, 1))?,
            CudaBuffer::upload(device, &uniform::<T>(n * d, 2))?,
            CudaBuffer::upload(device, &vec![1.0f32; n])?,
            CudaBuffer::<T>::zeroed(device, n * d)?,
        );
        Prepared::new(device, keeps, |(y, dy, norms, dx)| {
            engine.normalize_backward(
                y.rows(n, d)?,
                norms.vector()?,
                dy.rows(n, d)?,
                dx.rows_mut(n, d)?,
                EPSILON,
            )
        })
    });
}

/// One tensor of a momentum update on the device.
struct Parameter<T> {
    query: CudaBuffer<T>,
    key: CudaBuffer<f32>,
    shadow: Option<CudaBuffer<T>>,
}

impl<T: Element> Parameter<T> {
    fn new(device: &CudaDevice, length: usize, shadow: bool) -> Result<Self, Error> {
        let shadow = shadow.then(|| CudaBuffer::zeroed(device, length));
        Ok(Self {
            query: CudaBuffer::upload(device, &uniform(length, 1))?,
            key: CudaBuffer::upload(device, &uniform(length, 2))?,
            shadow: shadow.transpose()?,
        })
    }

    fn tensor(
        &mut self,
    ) -> Result<MomentumTensor<CudaVector<'_, T>, CudaVectorMut<'_>, CudaVectorMut<'_, T>>, Error>
    {
        let shadow = self.shadow.as_mut().map(CudaBuffer::vector_mut);
        Ok(MomentumTensor {
            query: self.query.vector()?,
            key: self.key.vector_mut()?,
            shadow: shadow.transpose()?,
        })
    }
}

/// All tensors of a ResNet-50 in one call.
fn momentum<T: Element>(rig: &mut Rig, criterion: &mut Criterion, shadow: bool) {
    let lengths: Vec<usize> = resnet50().into_iter().map(|n| rig.rows(n)).collect();
    let elements = lengths.iter().sum::<usize>() as f64;
    // The query is read, the key read and written, the shadow written.
    let copies = if shadow { 2.0 } else { 1.0 };
    let bytes = elements * (8.0 + copies * element_bytes(T::DTYPE));
    let wanted = if shadow { "keys and shadow" } else { "keys" };
    let shape = format!("ResNet-50, {} tensors", lengths.len());
    let row = row("momentum update", wanted, shape, T::DTYPE, None, bytes);
    rig.time(criterion, row, Yardstick::Copy, |engine| {
        let device = engine.device();
        let parameter = |&length: &usize| Parameter::<T>::new(device, length, shadow);
        let keeps: Vec<_> = lengths.iter().map(parameter).collect::<Result<_, _>>()?;
        Prepared::new(device, keeps, |parameters| {
            let mut tensors = Vec::with_capacity(parameters.len());
            for parameter in parameters {
                tensors.push(parameter.tensor()?);
            }
            engine.momentum_update(0.999, &mut tensors)
        })
    });
}

/// Elements of each learnable tensor of a ResNet-50 (He et al. 2016, table 1; bottleneck blocks with batch
/// normalisation, 1,000 classes).
pub fn resnet50() -> Vec<usize> {
    let mut tensors = Vec::new();
    let mut convolution = |inputs: usize, outputs: usize, side: usize| {
        tensors.extend([inputs * outputs * side * side, outputs, outputs]);
    };
    convolution(3, 64, 7);
    let mut inputs = 64;
    for (width, blocks) in [(64, 3), (128, 4), (256, 6), (512, 3)] {
        for block in 0..blocks {
            convolution(inputs, width, 1);
            convolution(width, width, 3);
            convolution(width, 4 * width, 1);
            if block == 0 {
                convolution(inputs, 4 * width, 1);
            }
            inputs = 4 * width;
        }
    }
    tensors.extend([inputs * 1000, 1000]);
    assert_eq!(
        (tensors.len(), tensors.iter().sum()),
        (161, 25_557_032usize)
    );
    tensors
}

/// 65,536 anchors and as many candidates of 1,024 bf16 elements, each named twice.
fn triplet(rig: &mut Rig, criterion: &mut Criterion) {
    let (n, d) = (rig.rows(65_536), 1024);
    // q, k₊ and k₋ are read and dq is written; k is read, q twice, and dk is written.
    let bytes = 8.0 * (n * d) as f64 * element_bytes(bf16::DTYPE);
    let shape = format!("N=M={n} D={d}");
    let row = row("triplet", "dq, dk", shape, bf16::DTYPE, None, bytes);
    rig.time(criterion, row, Yardstick::Copy, |engine| {
        let device = engine.device();
        let matrix = |seed| CudaBuffer::upload(device, &unit_rows::<bf16>(n, d, seed));
        let index = |offset: usize| {
            let index: Vec<u32> = (0..n).map(|i| ((i + offset) % n) as u32).rev().collect();
            CudaBuffer::upload(device, &index)
        };
        let unwritten = || CudaBuffer::<bf16>::zeroed(device, n * d);
        let inputs = (matrix(1)?, matrix(2)?, index(n / 3)?, index(n / 7)?);
        let keeps = (inputs, unwritten()?, unwritten()?);
        // Random unit rows are about as far from both, so that every anchor has a loss.
        let loss = Triplet::new(1.0)?;
        Prepared::new(device, keeps, |((q, k, positives, negatives), dq, dk)| {
            let problem = loss.on(Triplets {
                q: q.rows(n, d)?,
                k: Some(k.rows(n, d)?),
                positives: positives.vector()?,
                negatives: negatives.vector()?,
            })?;
            let gradients = Gradients::new(dq.rows_mut(n, d)?, Some(dk.rows_mut(n, d)?));
            engine.triplet(&problem, 1.0, gradients)
        })
    });
}

/// A batch into MoCo's queue.
fn enqueue(rig: &mut Rig, criterion: &mut Criterion) {
    let (batch, capacity, d) = (256, rig.rows(65_536).max(256), 128);
    let shape = format!("{batch} of {capacity} D={d}");
    let bytes = 2.0 * (batch * d) as f64 * element_bytes(bf16::DTYPE);
    let row = row("enqueue", "rows", shape, bf16::DTYPE, None, bytes);
    rig.time(criterion, row, Yardstick::Copy, |engine| {
        let device = engine.device();
        let keeps = (
            CudaBuffer::upload(device, &unit_rows::<bf16>(batch, d, 1))?,
            CudaQueue::from_host(device, &KeyQueue::<bf16>::new(capacity, d)?)?,
        );
        Prepared::new(device, keeps, |(keys, queue)| {
            engine.enqueue(queue, keys.rows(batch, d)?)
        })
    });
}
