//! Times the losses and top-k.

use std::path::Path;

use criterion::Criterion;
use half::{bf16, f16};
use infonce::cuda::{CudaBuffer, CudaDevice, CudaEngine, CudaResults, CudaRows, CudaRowsMut};
use infonce::losses::{Layout, Loss, TABLE};
use infonce::{
    Contrast, DType, Element, Engine, Error, Evaluation, Gradients, Inputs, Positives, Problem,
    Shape, Work,
};

use super::random::unit_rows;
use super::rig::{Prepared, Rig, element_bytes, row, seconds};
use super::schema::{Row, Yardstick};

#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    Forward,
    /// Loss, dq, and dk where the loss has one, in the inputs' type.
    Gradient,
    /// The gradients alone, from the statistics of a forward.
    Backward,
}

#[derive(Clone, Copy)]
struct Case {
    /// Its key in `infonce::losses::TABLE`.
    loss: &'static str,
    wanted: Wanted,
    n: usize,
    m: usize,
    d: usize,
}

/// D of the InfoNCE and CLIP cases, most valuable first; `benches/peers` has the same.
const DIMENSIONS: [usize; 5] = [512, 128, 1024, 256, 768];

/// The losses that `benches/peers` measures too.
const TIMED: [&str; 2] = ["info_nce", "clip"];

/// Backwards from stored softmax weights: InfoNCE has one exponential a weight, CLIP two.
pub fn weights(rig: &mut Rig, criterion: &mut Criterion) {
    for loss in TIMED {
        backward(rig, criterion, square(loss, Wanted::Backward, 32_768, 512));
    }
}

/// The cases that `benches/peers` measures too. README.md shows their rows and a plot.
pub fn first(rig: &mut Rig, criterion: &mut Criterion) {
    for dim in DIMENSIONS {
        for loss in TIMED {
            for wanted in [Wanted::Gradient, Wanted::Forward] {
                time::<bf16>(rig, criterion, square(loss, wanted, 32_768, dim));
            }
        }
    }
}

/// Every loss at the shapes of its users.
pub fn rest(rig: &mut Rig, criterion: &mut Criterion) {
    let queue = Case {
        m: 65_536,
        ..square("moco", Wanted::Gradient, 256, 128)
    };
    time::<bf16>(rig, criterion, queue);
    for dim in DIMENSIONS {
        let case = square("info_nce", Wanted::Gradient, 8192, dim);
        time::<bf16>(rig, criterion, case);
    }
    for wanted in [Wanted::Forward, Wanted::Gradient] {
        time::<bf16>(rig, criterion, square("nt_xent", wanted, 8192, 128));
        time::<bf16>(rig, criterion, square("info_nce", wanted, 4096, 256));
        time::<bf16>(rig, criterion, square("info_nce", wanted, 65_536, 512));
        time::<f16>(rig, criterion, square("info_nce", wanted, 32_768, 512));
        time::<f32>(rig, criterion, square("info_nce", wanted, 8192, 256));
    }
    // All other losses at one shape, to compare their row rules with those of NT-Xent, InfoNCE and CLIP.
    let timed = ["moco", "info_nce", "nt_xent", "clip"];
    for loss in TABLE.iter().filter(|loss| !timed.contains(&loss.key)) {
        let case = square(loss.key, Wanted::Gradient, 8192, 128);
        time::<bf16>(rig, criterion, case);
    }
    top_k(rig, criterion);
}

/// N = M.
fn square(loss: &'static str, wanted: Wanted, n: usize, d: usize) -> Case {
    Case {
        loss,
        wanted,
        n,
        m: n,
        d,
    }
}

/// The shapes that take longest: N = M = 131,072, and 1,048,576, whose f32 logits would take 4 TiB.
pub fn largest(rig: &mut Rig, criterion: &mut Criterion) {
    for d in DIMENSIONS {
        let case = square("info_nce", Wanted::Gradient, 131_072, d);
        time::<bf16>(rig, criterion, case);
    }
    for wanted in [Wanted::Forward, Wanted::Gradient] {
        let case = square("info_nce", wanted, rig.rows(1 << 20), 512);
        rig.time_once(case.timed(DType::Bf16), |engine| {
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

/// Writes inputs and outputs of InfoNCE and CLIP at N = M = 32,768 to a file in `folder` for each D, in which
/// `benches/peers/gpu.py` finds the errors: loss in f32, q, k, dq and dk in bf16, little-endian.
pub fn outputs(rig: &Rig, folder: &Path) -> Result<(), String> {
    for d in DIMENSIONS {
        for loss in TIMED {
            let n = rig.rows(32_768);
            let case = square(loss, Wanted::Gradient, n, d);
            let path = folder.join(format!("{}-{n}x{d}", case.loss().name));
            let bytes = call_once(case, rig.engine()).map_err(|error| error.to_string())?;
            std::fs::write(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}

fn call_once(case: Case, engine: &CudaEngine) -> Result<Vec<u8>, Error> {
    let mut tensors = Tensors::<bf16>::new(case, engine.device())?;
    let loss = tensors.call(case, engine)?.loss()?;
    let mut bytes = loss.to_le_bytes().to_vec();
    for matrix in [&tensors.q, &tensors.k, &tensors.dq, &tensors.dk] {
        let elements = matrix.download()?;
        bytes.extend(elements.iter().flat_map(|element| element.to_le_bytes()));
    }
    Ok(bytes)
}

fn time<T: Element>(rig: &mut Rig, criterion: &mut Criterion, case: Case) {
    let case = case.of(rig);
    let row = case.timed(T::DTYPE);
    rig.time(criterion, row, Yardstick::Product, |engine| {
        let tensors = Tensors::<T>::new(case, engine.device())?;
        Prepared::new(engine.device(), tensors, |tensors| {
            tensors.call(case, engine)
        })
    });
}

fn backward(rig: &mut Rig, criterion: &mut Criterion, case: Case) {
    let case = case.of(rig);
    let row = case.timed(DType::Bf16);
    // Kernels of the forward are not traced.
    let untraced = rig.engine().clone();
    rig.time(criterion, row, Yardstick::Product, |engine| {
        let mut tensors = Tensors::<bf16>::new(case, engine.device())?;
        let forward = untraced.forward(&tensors.views(case)?.0)?;
        let keeps = (tensors, forward);
        Prepared::new(engine.device(), keeps, |(tensors, forward)| {
            let (problem, gradients) = tensors.views(case)?;
            let gradients = gradients.expect("a backward has gradients");
            engine.backward(&problem, forward.statistics(), 1.0, gradients)
        })
    });
}

/// The problem that a call reads, and the gradients that it writes, if any.
type Views<'a, T> = (
    Problem<CudaRows<'a, T>>,
    Option<Gradients<CudaRowsMut<'a, T>>>,
);

/// Inputs and gradients on the device.
struct Tensors<T> {
    q: CudaBuffer<T>,
    k: CudaBuffer<T>,
    /// MoCo's positive keys, one for each query.
    own_key: Option<CudaBuffer<T>>,
    /// Of rows of one matrix with labels: classes of four.
    labels: CudaBuffer<u32>,
    dq: CudaBuffer<T>,
    dk: CudaBuffer<T>,
}

impl<T: Element> Tensors<T> {
    fn new(case: Case, device: &CudaDevice) -> Result<Self, Error> {
        let Case { n, m, d, .. } = case;
        let upload = |rows, seed| CudaBuffer::upload(device, &unit_rows(rows, d, seed));
        let gradient = case.wanted != Wanted::Forward;
        let unwritten = |rows| if gradient { rows * d } else { 0 };
        let contrast = case.contrast()?;
        let own_key = contrast.has_own_keys().then(|| upload(n, 3)).transpose()?;
        let labels: Vec<u32> = (0..n as u32).map(|i| i / 4).collect();
        let keys = if contrast.is_shared() { 0 } else { m };
        let of_keys = if contrast.has_dk() { unwritten(m) } else { 0 };
        Ok(Self {
            q: upload(n, 1)?,
            k: upload(keys, 2)?,
            own_key,
            labels: CudaBuffer::upload(device, &labels)?,
            dq: CudaBuffer::zeroed(device, unwritten(n))?,
            dk: CudaBuffer::zeroed(device, of_keys)?,
        })
    }

    fn call(&mut self, case: Case, engine: &CudaEngine) -> Result<CudaResults, Error> {
        match self.views(case)? {
            (problem, None) => engine.forward(&problem),
            (problem, Some(gradients)) => engine.value_and_grad(&problem, 1.0, gradients),
        }
    }

    fn views(&mut self, case: Case) -> Result<Views<'_, T>, Error> {
        let Case { n, m, d, .. } = case;
        let contrast = case.contrast()?;
        let q = self.q.rows(n, d)?;
        let inputs = match (contrast.layout(), &self.own_key) {
            (Layout::Shared, _) => Inputs::Shared { z: q },
            (Layout::Labelled, _) => Inputs::Labelled {
                z: q,
                positives: Positives::Labels {
                    anchors: self.labels.vector()?,
                    candidates: self.labels.vector()?,
                },
            },
            (_, Some(own_key)) => Inputs::Queue {
                q,
                own_key: own_key.rows(n, d)?,
                queue: self.k.rows(m, d)?,
            },
            _ => Inputs::pair(q, self.k.rows(m, d)?),
        };
        let problem = contrast.on(inputs)?;
        if case.wanted == Wanted::Forward {
            return Ok((problem, None));
        }
        let dk = match contrast.has_dk() {
            true => Some(self.dk.rows_mut(m, d)?),
            false => None,
        };
        Ok((problem, Some(Gradients::new(self.dq.rows_mut(n, d)?, dk))))
    }
}

impl Case {
    /// This case with the rig's divisor applied to its rows.
    fn of(self, rig: &Rig) -> Self {
        let (n, m) = (rig.rows(self.n), rig.rows(self.m));
        Self { n, m, ..self }
    }

    fn loss(self) -> &'static Loss {
        Loss::of(self.loss).expect("cases name rows of the table")
    }

    fn contrast(self) -> Result<Contrast, Error> {
        let loss = self.loss();
        (loss.at)(loss.temperature)
    }

    fn timed(self, dtype: DType) -> Row {
        let (n, m, d) = (self.n as f64, self.m as f64, self.d as f64);
        let contrast = self.contrast().expect("papers' temperatures are legal");
        let dk = contrast.has_dk();
        let (wanted, work) = match self.wanted {
            Wanted::Forward => ("forward", Work::Forward),
            Wanted::Gradient => ("value and gradient", Work::ValueAndGrad { dk }),
            Wanted::Backward => ("backward", Work::Backward { dk }),
        };
        let sides = match contrast.layout() {
            Layout::Shared | Layout::Labelled => n,
            Layout::Pair => n + m,
            Layout::Queue => 2.0 * n + m,
            Layout::Targets => 2.0 * (n + m),
        };
        let gradients = match self.wanted {
            Wanted::Forward => 0.0,
            _ if dk => n + m,
            _ => n,
        };
        let shape = match contrast.is_shared() {
            true if contrast.layout() == Layout::Shared => format!("2N={} D={}", self.n, self.d),
            _ => format!("N={} M={} D={}", self.n, self.m, self.d),
        };
        let size = Shape {
            anchors: self.n,
            candidates: self.m,
            dim: self.d,
        };
        // docs/design.md, section 8.
        let flops = Some(contrast.useful_flops(size, work));
        let bytes = (sides + gradients) * d * element_bytes(dtype);
        row(self.loss().name, wanted, shape, dtype, flops, bytes)
    }
}

/// The search of a kNN evaluation.
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
            engine.top_k(queries.rows(n, d)?, candidates.rows(m, d)?, K, false)
        })
    });
}
