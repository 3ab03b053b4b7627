//! The similarity matrix is never stored: the global allocator counts what a call allocates at its peak beyond its
//! inputs and outputs.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use half::{bf16, f16};
use infonce::{
    Contrast, CpuEngine, Element, Engine, Error, Gradients, Inputs, Positives, Rows, RowsMut, Shape,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const MIB: usize = 1 << 20;

struct Counting {
    live: AtomicUsize,
    peak: AtomicUsize,
}

#[global_allocator]
static ALLOCATOR: Counting = Counting {
    live: AtomicUsize::new(0),
    peak: AtomicUsize::new(0),
};

impl Counting {
    fn grow(&self, bytes: usize) {
        let live = self.live.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.peak.fetch_max(live, Ordering::SeqCst);
    }
}

// SAFETY: every call is passed on to the system's allocator; only counters are added. The default `realloc`
// allocates, copies and frees: old and new block count together.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.grow(layout.size());
        // SAFETY: the caller's promises are the system's conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.grow(layout.size());
        // SAFETY: the caller's promises are the system's conditions.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.live.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: the caller's promises are the system's conditions.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Held by every test: the counters see the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// Peak of the bytes in use during `work`, less those in use before it.
fn peak_of<R>(work: impl FnOnce() -> R) -> (usize, R) {
    let before = ALLOCATOR.live.load(Ordering::SeqCst);
    ALLOCATOR.peak.store(before, Ordering::SeqCst);
    let result = work();
    (ALLOCATOR.peak.load(Ordering::SeqCst) - before, result)
}

fn random<T: Element>(rows: usize, dim: usize, seed: u64) -> Vec<T> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let bound = (3.0 / dim as f32).sqrt();
    let elements = (0..rows * dim).map(|_| T::from_f32(rng.random_range(-bound..bound)));
    elements.collect()
}

/// N = M = `rows`.
fn square(rows: usize, dim: usize) -> Shape {
    Shape {
        anchors: rows,
        candidates: rows,
        dim,
    }
}

/// Peak bytes of one-way InfoNCE's value_and_grad with dk at N = M = `rows`, and the bound that the engine states.
fn value_and_grad_peak<T: Element, G: Element>(
    engine: &CpuEngine,
    rows: usize,
    dim: usize,
) -> Result<(usize, usize), Error> {
    let (q, k) = (random::<T>(rows, dim, 1), random::<T>(rows, dim, 2));
    let zero = G::from_f32(0.0);
    let (mut dq, mut dk) = (vec![zero; rows * dim], vec![zero; rows * dim]);
    let inputs = Inputs::pair(Rows::new(&q, rows, dim)?, Rows::new(&k, rows, dim)?);
    let problem = Contrast::info_nce(0.07)?.on(inputs)?;
    let gradients = Gradients::new(
        RowsMut::new(&mut dq, rows, dim)?,
        Some(RowsMut::new(&mut dk, rows, dim)?),
    );
    let (peak, value) = peak_of(|| engine.value_and_grad(&problem, 1.0, gradients));
    assert!(value?.loss.is_finite());
    assert!(dq.iter().chain(&dk).any(|&gradient| gradient != zero));
    Ok((
        peak,
        engine.workspace_bytes::<T, G>(problem.contrast(), square(rows, dim), true),
    ))
}

#[test]
fn value_and_grad_of_32768_by_32768_needs_less_than_64_mib() -> Result<(), Error> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for threads in [2, 16] {
        let engine = CpuEngine::with_threads(threads)?;
        // The matrix alone would be 4 GiB.
        let (peak, stated) = value_and_grad_peak::<f32, f32>(&engine, 32_768, 128)?;
        println!("{threads} threads: {peak} bytes of {stated} stated");
        assert!(peak < 64 * MIB, "{threads} threads: {peak} bytes");
        assert!(peak <= stated, "{threads} threads: {peak} of {stated}");
    }
    Ok(())
}

#[test]
fn workspace_grows_linearly() -> Result<(), Error> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // D = 32 saves time. The budget of the chunk of weights does not depend on the size; the second engine has the
    // least budget, so that all other buffers show their growth.
    for (engine, rows) in [
        (CpuEngine::new(), 16_384),
        (CpuEngine::new().with_weights_budget(0), 8192),
    ] {
        let (half, _) = value_and_grad_peak::<f32, f32>(&engine, rows, 32)?;
        let (whole, stated) = value_and_grad_peak::<f32, f32>(&engine, 2 * rows, 32)?;
        println!("{half} bytes at {rows} and {whole} at twice as many");
        assert!(whole as f64 <= 2.1 * half as f64, "{half} to {whole}");
        assert!(whole <= stated, "{whole} of {stated}");
    }
    Ok(())
}

/// That it is a bound is tested, too: by `workspace_grows_linearly`.
#[test]
fn the_stated_workspace_is_small_and_linear() -> Result<(), Error> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let small = |name: &str, bytes: &dyn Fn(Shape) -> Result<usize, Error>| {
        let (half, whole) = (bytes(square(32_768, 128))?, bytes(square(65_536, 128))?);
        println!("{name}: {half} bytes, at twice as many rows {whole}");
        assert!(whole <= 2 * half, "{name}: {half} to {whole}");
        // A matrix of single bytes would take 4 GiB; inputs and gradients take 128 MiB at most.
        assert!(whole < 256 * MIB, "{name}: {whole}");
        Ok::<_, Error>(())
    };
    let engine = CpuEngine::with_threads(2)?;
    for dk in [false, true] {
        let name = |types| format!("cpu, {types}, dk: {dk}");
        for contrast in [Contrast::info_nce(0.07)?, Contrast::dino(0.1, 0.04)?] {
            small(&name("f32"), &|shape| {
                Ok(engine.workspace_bytes::<f32, f32>(&contrast, shape, dk))
            })?;
            small(&name("bf16"), &|shape| {
                Ok(engine.workspace_bytes::<bf16, bf16>(&contrast, shape, dk))
            })?;
        }
    }
    #[cfg(feature = "emulator")]
    {
        use infonce::emulator::{EmulatedEngine, Schedule};
        use infonce::losses::TABLE;
        use infonce::{DType, Work};
        let engines = [
            EmulatedEngine::new(Schedule::Early, 0),
            EmulatedEngine::new(Schedule::Early, 0).with_hopper_kernels(),
        ];
        for loss in TABLE {
            let contrast = (loss.at)(loss.temperature)?;
            let dk = contrast.has_dk();
            for (engine, dtype) in [(&engines[0], DType::F32), (&engines[1], DType::Bf16)] {
                let calls = [Work::ValueAndGrad { dk }, Work::Backward { dk }];
                for call in [Work::Forward].into_iter().chain(calls) {
                    let name = format!("kernels, {}, {dtype}, {call:?}", contrast.name());
                    small(&name, &|shape| {
                        engine.workspace_bytes(call, &contrast, shape, dtype)
                    })?;
                }
            }
        }
    }
    Ok(())
}

/// DINO's head: 65,536 prototypes of dimension 256, and, in the full run, 2,048 rows of features.
#[test]
fn dinos_head_needs_the_stated_workspace() -> Result<(), Error> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let rows = if std::env::var_os("INFONCE_FULL").is_some() {
        2048
    } else {
        192
    };
    let shape = Shape {
        anchors: rows,
        candidates: 65_536,
        dim: 256,
    };
    let [features, prototypes] = [rows, shape.candidates].map(|rows| rows * shape.dim);
    let (q, k) = (random::<bf16>(rows, 256, 1), random::<bf16>(65_536, 256, 2));
    let (u, p) = (random::<bf16>(rows, 256, 3), random::<bf16>(65_536, 256, 4));
    let contrast = Contrast::dino(0.1, 0.04)?;
    let problem = contrast.on(Inputs::Targets {
        q: Rows::new(&q, rows, 256)?,
        k: Rows::new(&k, 65_536, 256)?,
        target_q: Rows::new(&u, rows, 256)?,
        target_k: Rows::new(&p, 65_536, 256)?,
    })?;
    let (mut dq, mut dk) = (vec![0.0f32; features], vec![0.0f32; prototypes]);
    let gradients = Gradients::new(
        RowsMut::new(&mut dq, rows, 256)?,
        Some(RowsMut::new(&mut dk, 65_536, 256)?),
    );
    let engine = CpuEngine::with_threads(2)?;
    let (peak, value) = peak_of(|| engine.value_and_grad(&problem, 1.0, gradients));
    let stated = engine.workspace_bytes::<bf16, f32>(&contrast, shape, true);
    println!("{rows} rows: {peak} bytes of {stated} stated");
    // Random scores: the loss is near ln 65,536.
    assert!((value?.loss - 65_536f32.ln()).abs() < 0.5);
    assert!(peak <= stated && stated < 256 * MIB, "{peak} of {stated}");
    assert!(dq.iter().chain(&dk).any(|&gradient| gradient != 0.0));
    Ok(())
}

#[test]
fn no_verb_and_no_type_stores_the_matrix() -> Result<(), Error> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (rows, dim) = (8192, 64);
    let engine = CpuEngine::with_threads(2)?.with_weights_budget(MIB);
    // A matrix of single bytes would take 64 MiB.
    let allowed = 24 * MIB;
    type Peak = fn(&CpuEngine, usize, usize) -> Result<(usize, usize), Error>;
    for (name, peak) in [
        ("f32", value_and_grad_peak::<f32, f32> as Peak),
        ("bf16", value_and_grad_peak::<bf16, bf16>),
        ("bf16, f32 gradients", value_and_grad_peak::<bf16, f32>),
        ("f16", value_and_grad_peak::<f16, f16>),
    ] {
        let (peak, stated) = peak(&engine, rows, dim)?;
        println!("value_and_grad {name}: {peak} bytes of {stated} stated");
        assert!(peak < allowed, "{name}: {peak}");
        assert!(peak <= stated, "{name}: {peak} of {stated}");
    }

    let z = random::<f32>(rows, dim, 3);
    let k = random::<f32>(rows, dim, 4);
    let (z, k) = (Rows::new(&z, rows, dim)?, Rows::new(&k, rows, dim)?);
    let shared = Inputs::Shared { z };
    let pair = Inputs::pair(z, k);
    let index: Vec<u32> = (0..rows as u32).rev().collect();
    let indexed = Inputs::Pair {
        q: z,
        k,
        positives: Positives::Index(&index[..]),
    };
    let queue = Inputs::Queue {
        q: z,
        own_key: k,
        queue: k,
    };
    let targets = Inputs::Targets {
        q: z,
        k,
        target_q: k,
        target_k: z,
    };
    let contrasts = [
        (Contrast::siglip(0.1, -10.0)?, indexed),
        (Contrast::dino(0.1, 0.04)?, targets),
        (Contrast::byol()?, pair),
        (Contrast::nt_xent(0.07)?, shared),
        // Too large a scale for a fixed offset.
        (Contrast::nt_xent(0.005)?, shared),
        (Contrast::dclw(0.07, 0.5)?, shared),
        (Contrast::info_nce(0.07)?, indexed),
        (Contrast::info_nce(0.005)?, pair),
        (Contrast::moco(0.07)?, queue),
        (Contrast::clip(14.0)?, pair),
        (Contrast::clip(100.0)?, pair),
    ];
    for (contrast, inputs) in contrasts {
        let name = format!("{} at {}", contrast.name(), contrast.scale());
        let problem = contrast.on(inputs)?;
        let (peak, forward) = peak_of(|| engine.forward(&problem));
        let forward = forward?;
        println!("{name}, forward: {peak} bytes");
        assert!(peak < allowed, "{name}, forward: {peak}");
        let has_dk = contrast.has_dk();
        let stated = engine.workspace_bytes::<f32, f32>(&contrast, square(rows, dim), has_dk);
        for backward in [false, true] {
            let (mut dq, mut dk) = (vec![0.0f32; rows * dim], vec![0.0f32; rows * dim]);
            let dk = match has_dk {
                true => Some(RowsMut::new(&mut dk, rows, dim)?),
                false => None,
            };
            let dq = RowsMut::new(&mut dq, rows, dim)?;
            let gradients = Gradients::new(dq, dk);
            let statistics = &forward.statistics;
            let (peak, dscale) = peak_of(|| match backward {
                true => engine.backward(&problem, statistics, 1.0, gradients),
                false => engine
                    .value_and_grad(&problem, 1.0, gradients)
                    .map(|value| value.dscale),
            });
            let verb = ["value_and_grad", "backward"][usize::from(backward)];
            println!("{name}, {verb}: {peak} bytes of {stated} stated");
            assert!(dscale?.is_finite());
            assert!(peak < allowed, "{name}, {verb}: {peak}");
            assert!(peak <= stated, "{name}, {verb}: {peak} of {stated}");
        }
    }
    let (peak, top) = peak_of(|| engine.top_k(z, k, 20, true));
    let outputs = top?.indices.len() * 8;
    println!("top_k: {peak} bytes, {outputs} of them outputs");
    assert!(peak - outputs < allowed, "top_k: {peak}");
    Ok(())
}
