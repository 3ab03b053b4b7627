//! The losses and top-k.

use std::path::Path;

use criterion::Criterion;
use half::{bf16, f16};
use infonce::cuda::{CudaBuffer, CudaDevice, CudaEngine, CudaResults, CudaRows, CudaRowsMut};
use infonce::{Contrast, DType, Element, Error, Gradients, Inputs, Positives};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::rig::{Prepared, Rig, seconds};
use super::schema::{Row, Yardstick};

#[derive(Clone, Copy, PartialEq)]
enum Loss {
    NtXent,
    InfoNce,
    Moco,
    Clip,
}

#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    Forward,
    /// Every gradient that there is, in the inputs' type.
    Gradient,
    /// The same from what a forward has left.
    Backward,
}

#[derive(Clone, Copy)]
struct Case {
    loss: Loss,
    wanted: Wanted,
    n: usize,
    m: usize,
    d: usize,
}

/// At which InfoNCE and CLIP are timed, most valuable first; `benches/peers` has the same.
const DIMENSIONS: [usize; 5] = [512, 128, 1024, 256, 768];

/// Gradients from stored weights of one term and of two, all else alike: what W's second term costs.
pub fn weights(rig: &mut Rig, criterion: &mut Criterion) {
    for loss in [Loss::InfoNce, Loss::Clip] {
        backward(rig, criterion, square(loss, Wanted::Backward, 32_768, 512));
    }
}

/// What others are measured at, and what figures show.
pub fn first(rig: &mut Rig, criterion: &mut Criterion) {
    for dim in DIMENSIONS {
        for loss in [Loss::InfoNce, Loss::Clip] {
            for wanted in [Wanted::Gradient, Wanted::Forward] {
                time::<bf16>(rig, criterion, square(loss, wanted, 32_768, dim));
            }
        }
    }
}

/// Every loss at the shapes of its users.
pub fn rest(rig: &mut Rig, criterion: &mut Criterion) {
    use Loss::{InfoNce, Moco, NtXent};
    let queue = Case {
        m: 65_536,
        ..square(Moco, Wanted::Gradient, 256, 128)
    };
    time::<bf16>(rig, criterion, queue);
    for dim in DIMENSIONS {
        let case = square(InfoNce, Wanted::Gradient, 8192, dim);
        time::<bf16>(rig, criterion, case);
    }
    for wanted in [Wanted::Forward, Wanted::Gradient] {
        time::<bf16>(rig, criterion, square(NtXent, wanted, 8192, 128));
        time::<bf16>(rig, criterion, square(InfoNce, wanted, 4096, 256));
        time::<bf16>(rig, criterion, square(InfoNce, wanted, 65_536, 512));
        time::<f16>(rig, criterion, square(InfoNce, wanted, 32_768, 512));
        time::<f32>(rig, criterion, square(InfoNce, wanted, 8192, 256));
    }
    top_k(rig, criterion);
}

/// N = M.
fn square(loss: Loss, wanted: Wanted, n: usize, d: usize) -> Case {
    Case {
        loss,
        wanted,
        n,
        m: n,
        d,
    }
}

/// Shapes that take long: N = M = 131,072, and 1,048,576, where the matrix of logits would take 4 TiB
/// in f32.
pub fn largest(rig: &mut Rig, criterion: &mut Criterion) {
    for d in DIMENSIONS {
        let case = square(Loss::InfoNce, Wanted::Gradient, 131_072, d);
        time::<bf16>(rig, criterion, case);
    }
    for wanted in [Wanted::Forward, Wanted::Gradient] {
        let case = square(Loss::InfoNce, wanted, rig.rows(1 << 20), 512);
        rig.time_once(case.row(DType::Bf16), |engine| {
            let device = engine.device();
            device.trim();
            let mut tensors = Tensors::<bf16>::new(case, device)?;
            let (before, _) = device.memory_bytes();
            let events = [device.event()?, device.event()?];
            let time = seconds(&events, || tensors.call(case, engine).map(drop))?;
            let (used, free) = device.memory_bytes();
            Ok((time, used + free - before))
        });
    }
}

/// Writes what InfoNCE and CLIP read and give at N = M = 32,768 to a file in `folder` for each D, for
/// `benches/peers/gpu.py` to find the errors: loss in f32, q, k, dq and dk in bf16, little-endian.
pub fn outputs(rig: &Rig, folder: &Path) -> Result<(), String> {
    for d in DIMENSIONS {
        for loss in [Loss::InfoNce, Loss::Clip] {
            let n = rig.rows(32_768);
            let path = folder.join(format!("{}-{n}x{d}", loss.name()));
            let case = square(loss, Wanted::Gradient, n, d);
            let bytes = call_once(case, rig.engine()).map_err(|error| error.to_string())?;
            std::fs::write(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}

fn call_once(case: Case, engine: &CudaEngine) -> Result<Vec<u8>, Error> {
    let mut tensors = Tensors::<bf16>::new(case, engine.device())?;
    let [loss, _] = tensors.call(case, engine)?.read_loss()?;
    let mut bytes = loss.to_le_bytes().to_vec();
    for matrix in [&tensors.q, &tensors.k, &tensors.dq, &tensors.dk] {
        let numbers = matrix.download()?;
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }
    Ok(bytes)
}

fn time<T: Element>(rig: &mut Rig, criterion: &mut Criterion, case: Case) {
    let case = case.of(rig);
    let row = case.row(T::DTYPE);
    rig.time(criterion, row, Yardstick::Product, |engine| {
        let tensors = Tensors::<T>::new(case, engine.device())?;
        Prepared::new(engine.device(), tensors, |tensors| {
            tensors.call(case, engine)
        })
    });
}

fn backward(rig: &mut Rig, criterion: &mut Criterion, case: Case) {
    let case = case.of(rig);
    let row = case.row(DType::Bf16);
    // What the forward launches is not of the case.
    let untraced = rig.engine().clone();
    rig.time(criterion, row, Yardstick::Product, |engine| {
        let mut tensors = Tensors::<bf16>::new(case, engine.device())?;
        let (inputs, _) = tensors.views(case)?;
        let forward = untraced.forward_on_device(&case.contrast()?, &inputs, None)?;
        let keeps = (tensors, forward);
        Prepared::new(engine.device(), keeps, |(tensors, forward)| {
            let (inputs, gradients) = tensors.views(case)?;
            let gradients = gradients.expect("a backward has gradients");
            engine.backward_on_device(&case.contrast()?, &inputs, forward, 1.0, gradients, None)
        })
    });
}

/// What a call reads, and the gradients that it writes, if any.
type Views<'a, T> = (
    Inputs<CudaRows<'a, T>>,
    Option<Gradients<CudaRowsMut<'a, T>>>,
);

/// Inputs and gradients on the device.
struct Tensors<T> {
    q: CudaBuffer<T>,
    k: CudaBuffer<T>,
    /// MoCo's keys of the queries' own images.
    own_key: Option<CudaBuffer<T>>,
    dq: CudaBuffer<T>,
    dk: CudaBuffer<T>,
}

impl<T: Element> Tensors<T> {
    fn new(case: Case, device: &CudaDevice) -> Result<Self, Error> {
        let Case { n, m, d, .. } = case;
        let upload = |rows, seed| CudaBuffer::upload(device, &unit_rows(rows, d, seed));
        let gradient = case.wanted != Wanted::Forward;
        let room = |rows| if gradient { rows * d } else { 0 };
        let own_key = (case.loss == Loss::Moco)
            .then(|| upload(n, 3))
            .transpose()?;
        let has_k = case.loss != Loss::NtXent;
        Ok(Self {
            q: upload(n, 1)?,
            k: upload(if has_k { m } else { 0 }, 2)?,
            own_key,
            dq: CudaBuffer::zeroed(device, room(n))?,
            dk: CudaBuffer::zeroed(device, if case.has_dk() { room(m) } else { 0 })?,
        })
    }

    fn call(&mut self, case: Case, engine: &CudaEngine) -> Result<CudaResults, Error> {
        let contrast = case.contrast()?;
        match self.views(case)? {
            (inputs, None) => engine.forward_on_device(&contrast, &inputs, None),
            (inputs, Some(gradients)) => {
                engine.value_and_grad_on_device(&contrast, &inputs, 1.0, gradients, None)
            }
        }
    }

    fn views(&mut self, case: Case) -> Result<Views<'_, T>, Error> {
        let Case { n, m, d, .. } = case;
        let q = self.q.rows(n, d)?;
        let inputs = match (case.loss, &self.own_key) {
            (Loss::NtXent, _) => Inputs::Shared { z: q },
            (_, Some(own_key)) => Inputs::Queue {
                q,
                own_key: own_key.rows(n, d)?,
                queue: self.k.rows(m, d)?,
            },
            _ => Inputs::Pair {
                q,
                k: self.k.rows(m, d)?,
            },
        };
        if case.wanted == Wanted::Forward {
            return Ok((inputs, None));
        }
        let gradients = Gradients {
            dq: self.dq.rows_mut(n, d)?,
            dk: match case.has_dk() {
                true => Some(self.dk.rows_mut(m, d)?),
                false => None,
            },
        };
        Ok((inputs, Some(gradients)))
    }
}

impl Loss {
    fn name(self) -> &'static str {
        match self {
            Self::NtXent => "NT-Xent",
            Self::InfoNce => "InfoNCE",
            Self::Moco => "MoCo",
            Self::Clip => "CLIP",
        }
    }
}

impl Case {
    /// With as many rows as the rig gives it.
    fn of(self, rig: &Rig) -> Self {
        let (n, m) = (rig.rows(self.n), rig.rows(self.m));
        Self { n, m, ..self }
    }

    fn contrast(self) -> Result<Contrast, Error> {
        match self.loss {
            Loss::NtXent => Contrast::nt_xent(0.5),
            Loss::InfoNce => Contrast::info_nce(0.07, Positives::Diagonal),
            Loss::Moco => Contrast::moco(0.07),
            Loss::Clip => Contrast::clip(1.0 / 0.07),
        }
    }

    fn has_dk(self) -> bool {
        matches!(self.loss, Loss::InfoNce | Loss::Clip)
    }

    fn row(self, dtype: DType) -> Row {
        let (n, m, d) = (self.n as f64, self.m as f64, self.d as f64);
        // docs/design.md, section 6: "What is timed".
        let products = match (self.wanted, self.loss) {
            (Wanted::Forward, _) => 2.0,
            (_, Loss::Moco) => 4.0,
            (_, Loss::NtXent | Loss::InfoNce) | (Wanted::Backward, Loss::Clip) => 6.0,
            (Wanted::Gradient, Loss::Clip) => 8.0,
        };
        let (sides, gradients) = match self.loss {
            Loss::NtXent => (n, n),
            Loss::Moco => (2.0 * n + m, n),
            Loss::InfoNce | Loss::Clip => (n + m, n + m),
        };
        let gradients = match self.wanted {
            Wanted::Forward => 0.0,
            Wanted::Gradient | Wanted::Backward => gradients,
        };
        let wanted = match self.wanted {
            Wanted::Forward => "forward",
            Wanted::Gradient => "value and gradient",
            Wanted::Backward => "backward",
        };
        let shape = match self.loss {
            Loss::NtXent => format!("2N={} D={}", self.n, self.d),
            _ => format!("N={} M={} D={}", self.n, self.m, self.d),
        };
        let bytes = (sides + gradients) * d * number_bytes(dtype);
        row(
            self.loss.name(),
            wanted,
            shape,
            dtype,
            Some(products * n * m * d),
            bytes,
        )
    }
}

/// A row without numbers yet.
pub fn row(
    work: &str,
    wanted: &str,
    shape: String,
    dtype: DType,
    flops: Option<f64>,
    bytes: f64,
) -> Row {
    Row {
        by: format!("infonce {}", infonce::VERSION),
        work: work.to_owned(),
        wanted: wanted.to_owned(),
        shape,
        dtype: dtype.to_string(),
        flops,
        bytes,
        cold: None,
        warm: None,
        measure: None,
        extra_bytes: None,
        error: None,
        reason: None,
        kernels: Vec::new(),
    }
}

pub fn number_bytes(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 4.0,
        DType::F16 | DType::Bf16 => 2.0,
    }
}

/// kNN evaluation's search.
fn top_k(rig: &mut Rig, criterion: &mut Criterion) {
    const K: usize = 200;
    let (n, m, d) = (rig.rows(1024).max(K), rig.rows(65_536).max(K), 128);
    let row = row(
        "top-k",
        "k=200",
        format!("N={n} M={m} D={d}"),
        DType::Bf16,
        Some(2.0 * (n * m * d) as f64),
        2.0 * ((n + m) * d) as f64 + 8.0 * (n * K) as f64,
    );
    rig.time(criterion, row, Yardstick::Product, |engine| {
        let device = engine.device();
        let queries = CudaBuffer::upload(device, &unit_rows::<bf16>(n, d, 1))?;
        let candidates = CudaBuffer::upload(device, &unit_rows::<bf16>(m, d, 2))?;
        Prepared::new(device, (queries, candidates), |(queries, candidates)| {
            engine.top_k_on_device(queries.rows(n, d)?, candidates.rows(m, d)?, K, false)
        })
    });
}

/// Independent numbers between -1 and 1.
pub fn uniform<T: Element>(count: usize, seed: u64) -> Vec<T> {
    let mut numbers = vec![T::from_f32(0.0); count];
    fill(&mut numbers, 4096, seed, |chunk, rng| {
        chunk.fill_with(|| T::from_f32(rng.random_range(-1.0..1.0)));
    });
    numbers
}

/// Rows of length 1 in independent directions.
pub fn unit_rows<T: Element>(rows: usize, dim: usize, seed: u64) -> Vec<T> {
    let mut numbers = vec![T::from_f32(0.0); rows * dim];
    fill(&mut numbers, dim, seed, |row, rng| {
        let direction: Vec<f32> = row.iter().map(|_| rng.random_range(-1.0..1.0)).collect();
        let length = direction.iter().map(|x| x * x).sum::<f32>().sqrt();
        for (number, x) in row.iter_mut().zip(direction) {
            *number = T::from_f32(x / length);
        }
    });
    numbers
}

/// Each chunk from random numbers of its own, whoever computes it.
fn fill<T: Send>(
    numbers: &mut [T],
    chunk: usize,
    seed: u64,
    of_chunk: impl Fn(&mut [T], &mut ChaCha8Rng) + Sync,
) {
    let chunks = numbers.par_chunks_mut(chunk).enumerate();
    chunks.for_each(|(index, chunk)| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index as u64);
        of_chunk(chunk, &mut rng);
    });
}
