//! Small cases whose right value is known, on every engine: those that contrastive losses elsewhere got
//! wrong. Each promise is one test per engine, under its name; losses are judged on the float64 reference
//! too. An engine that is not there is reported as ignored, with the reason.

mod losses;
#[cfg(feature = "cuda")]
#[path = "../cuda_device/no_device.rs"]
mod no_device;
mod verbs;

use half::{bf16, f16};
#[cfg(feature = "cuda")]
use infonce::cuda::CudaEngine;
#[cfg(feature = "emulator")]
use infonce::host::{HostEngine, Schedule};
use infonce::reference::{self, Dense, Reference};
use infonce::verify::Backend;
use infonce::{
    Contrast, CpuEngine, Element, Error, Gradients, Inputs, Matrix, Positives, Rows, RowsMut,
};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Makes a new engine of a kind.
type New<B> = fn() -> Result<B, Error>;
/// A promise, held against engines of one kind.
type Promise<B> = fn(New<B>) -> Result<(), Error>;

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = trials::<CpuEngine>("cpu", || Ok(CpuEngine::new()));
    trials.extend(emulator_trials());
    trials.extend(cuda_trials());
    libtest_mimic::run(&arguments, trials).exit();
}

fn trials<B: Backend + 'static>(engine: &str, new: New<B>) -> Vec<Trial> {
    let promises = losses::promises::<B>().into_iter();
    let promises = promises.chain(verbs::promises::<B>());
    promises
        .map(|(name, promise)| {
            let test = move || promise(new).map_err(Failed::from);
            Trial::test(format!("{engine}: {name}"), test)
        })
        .collect()
}

fn absent(engine: &str, reason: impl Into<String>) -> Trial {
    let reason = reason.into();
    Trial::ignorable_test(engine, move || Ok(Completion::ignored_with(reason)))
}

#[cfg(feature = "emulator")]
fn emulator_trials() -> Vec<Trial> {
    let mut all = trials("emulator", || Ok(HostEngine::new(Schedule::Late, 1)));
    all.extend(trials("emulator, sm_90a", || {
        Ok(HostEngine::new(Schedule::Mixed, 2).with_hopper_kernels())
    }));
    all
}

#[cfg(not(feature = "emulator"))]
fn emulator_trials() -> Vec<Trial> {
    vec![absent(
        "emulator",
        "this build lacks the feature `emulator`",
    )]
}

#[cfg(feature = "cuda")]
fn cuda_trials() -> Vec<Trial> {
    match CudaEngine::new(0) {
        Ok(_) => trials("cuda", || CudaEngine::new(0)),
        Err(error) => {
            no_device::ignored(&error.to_string());
            vec![absent("cuda", error.to_string())]
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda_trials() -> Vec<Trial> {
    vec![absent("cuda", "this build lacks the feature `cuda`")]
}

/// The matrix with these rows.
fn matrix<const D: usize>(rows: &[[f64; D]]) -> Dense {
    Dense::from_fn(rows.len(), D, |i, d| rows[i][d])
}

/// Two views of two rows.
fn two_views() -> Dense {
    matrix(&[[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [-0.6, 0.8]])
}

/// Standard normal numbers, or nearly: sums of twelve uniform ones.
fn randn(rows: usize, dim: usize, seed: u64) -> Dense {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Dense::from_fn(rows, dim, |_, _| {
        (0..12).map(|_| rng.random_range(-0.5..0.5)).sum()
    })
}

/// The rows of `x`, of length 1.
fn unit(x: &Dense) -> Dense {
    reference::normalize(x, 1e-12).0
}

fn rounded<T: Element>(matrix: &Dense) -> Vec<T> {
    let numbers = matrix.as_slice().iter();
    numbers.map(|&x| T::from_f32(x as f32)).collect()
}

/// Every loss with n anchors and m ≥ n candidates (NT-Xent with 2n rows, CLIP with n of each), and the
/// rows of its matrices.
fn contrasts(temperature: f32, n: usize, m: usize) -> Result<Vec<(Contrast, Vec<usize>)>, Error> {
    let index: Vec<u32> = (0..n).map(|i| (i * 7 % m) as u32).collect();
    Ok(vec![
        (Contrast::nt_xent(temperature)?, vec![2 * n]),
        (
            Contrast::info_nce(temperature, Positives::Diagonal)?,
            vec![n, m],
        ),
        (
            Contrast::info_nce(temperature, Positives::Index(index.into()))?,
            vec![n, m],
        ),
        (Contrast::moco(temperature)?, vec![n, n, m]),
        (Contrast::clip(1.0 / temperature)?, vec![n, n]),
    ])
}

/// z; q, k; or q, own_key, queue.
fn inputs<V>(matrices: &[V]) -> Inputs<&V> {
    match matrices {
        [z] => Inputs::Shared { z },
        [q, k] => Inputs::Pair { q, k },
        [q, own_key, queue] => Inputs::Queue { q, own_key, queue },
        other => unreachable!("{} matrices", other.len()),
    }
}

/// Loss and gradients as an engine left them; dk where the contrast has one.
#[derive(Debug, PartialEq)]
struct Value {
    loss: f32,
    dscale: f32,
    dq: Vec<f32>,
    dk: Vec<f32>,
}

impl Value {
    fn is_finite(&self) -> bool {
        let numbers = self.dq.iter().chain(&self.dk);
        numbers
            .chain([&self.loss, &self.dscale])
            .all(|x| x.is_finite())
    }
}

/// value_and_grad of inputs of type `T`, with gradients of type `T`.
fn evaluate<B: Backend, T: Element>(
    engine: &B,
    contrast: &Contrast,
    matrices: &[Dense],
) -> Result<Value, Error> {
    let dim = (&matrices[0]).dim();
    let rounded: Vec<Vec<T>> = matrices.iter().map(rounded).collect();
    let views: Result<Vec<Rows<'_, T>>, Error> = rounded
        .iter()
        .map(|numbers| Rows::new(numbers, numbers.len() / dim, dim))
        .collect();
    let views = views?;
    let inputs = match inputs(&views) {
        Inputs::Shared { z } => Inputs::Shared { z: *z },
        Inputs::Pair { q, k } => Inputs::Pair { q: *q, k: *k },
        Inputs::Queue { q, own_key, queue } => Inputs::Queue {
            q: *q,
            own_key: *own_key,
            queue: *queue,
        },
    };
    let nan = T::from_f32(f32::NAN);
    let mut dq = vec![nan; rounded[0].len()];
    let mut dk = match &inputs {
        Inputs::Pair { k, .. } => vec![nan; k.as_slice().len()],
        _ => Vec::new(),
    };
    let gradients = Gradients {
        dq: RowsMut::new(&mut dq, views[0].rows(), dim)?,
        dk: match dk.len() {
            0 => None,
            length => Some(RowsMut::new(&mut dk, length / dim, dim)?),
        },
    };
    let value = engine.value_and_grad(contrast, &inputs, 1.0, gradients)?;
    let widened = |numbers: &[T]| numbers.iter().map(|x| x.to_f32()).collect();
    Ok(Value {
        loss: value.loss,
        dscale: value.dscale,
        dq: widened(&dq),
        dk: widened(&dk),
    })
}

/// The float64 reference on the same numbers, rounded to `T`.
fn reference_of<T: Element>(contrast: &Contrast, matrices: &[Dense]) -> Result<Reference, Error> {
    let round = |matrix: &Dense| -> Dense {
        let (numbers, dim) = (rounded::<T>(matrix), matrix.dim());
        Dense::from_fn(matrix.rows(), dim, |i, d| {
            f64::from(numbers[i * dim + d].to_f32())
        })
    };
    let matrices: Vec<Dense> = matrices.iter().map(round).collect();
    reference::value_and_grad(contrast, &inputs(&matrices), 1.0)
}

/// Whether `found` is `expected` to within `share` of it.
fn assert_near(found: impl Into<f64>, expected: f64, share: f64, what: &str) {
    let found = found.into();
    assert!(
        (found - expected).abs() <= share * expected.abs(),
        "{what}: {found} in place of {expected}"
    );
}

/// Runs a generic function for f32, f16 and bf16.
macro_rules! in_all_types {
    ($function:ident::<$engine:ident>($($argument:expr),*)) => {
        $function::<$engine, f32>($($argument),*)?;
        $function::<$engine, half::f16>($($argument),*)?;
        $function::<$engine, half::bf16>($($argument),*)?;
    };
}
use in_all_types;
