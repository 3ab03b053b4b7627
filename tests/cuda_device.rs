//! Memory, streams and graphs of a CUDA device, and the engine's calls that stay on it. Without a
//! device every test is ignored, and says why; with `INFONCE_REQUIRE_CUDA` set, all of them fail.

use half::bf16;
use infonce::cuda::{
    Call, CudaBuffer, CudaDevice, CudaEngine, CudaQueue, CudaRows, CudaRowsMut, CudaVector, probe,
};
use infonce::{
    Contrast, DType, Engine, Error, Gradients, Inputs, KeyQueue, Positives, Shape, ValueAndGrad,
};
use libtest_mimic::{Arguments, Failed, Trial};

#[path = "cuda_device/examples.rs"]
mod examples;
#[path = "cuda_device/no_device.rs"]
mod no_device;
#[path = "cuda_device/noted.rs"]
mod noted;
#[path = "cuda_device/rounded.rs"]
mod rounded;
#[path = "cuda_device/step.rs"]
mod step;

type Test = fn(&CudaDevice) -> Result<(), Error>;

const TESTS: [(&str, Test); 21] = [
    ("what is uploaded comes back", round_trip),
    (
        "a zeroed buffer holds zeros though its memory was used before",
        zeroed,
    ),
    (
        "a buffer's memory serves the next buffer of its size",
        reuse,
    ),
    ("trimming gives back what is free", trimming),
    ("a copy has the numbers of its source as they were", copies),
    ("events measure what lies between them", events),
    ("a graph copies what was recorded each time it runs", graph),
    (
        "waiting for results while recording is an error and leaves the stream usable",
        waiting,
    ),
    (
        "a buffer made while recording is used by the graph",
        buffer_in_graph,
    ),
    ("raw pointers are viewed with their stride", raw),
    (
        "a second stream has memory of its own and can wait for the first",
        streams,
    ),
    (
        "a recorded call gives the bits of a plain one each time it runs",
        recorded_call,
    ),
    (
        "the first call of a handle may be recorded",
        recorded_at_once,
    ),
    (
        "a handle may be dropped while its work is under way",
        dropped,
    ),
    (
        "threads get the same bits, with one handle and with one each",
        threads,
    ),
    (
        "after the first call of a shape nothing is allocated, and that took what was announced",
        workspace,
    ),
    (
        "a scale and statistics on the device give the bits of those on the host",
        on_device,
    ),
    (
        "outputs that share memory with another argument are refused",
        aliasing,
    ),
    (
        "a part of the columns of a larger matrix gives the bits of a copy of it",
        strided,
    ),
    (
        "a queue on the device holds what one on the host holds",
        queue,
    ),
    (
        "the best candidates left on the device are those that are read",
        best_on_device,
    ),
];

fn main() {
    let arguments = Arguments::from_args();
    let reason = match probe() {
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    };
    if let Some(reason) = &reason {
        no_device::ignored(reason);
    }
    let tests = TESTS
        .into_iter()
        .chain(step::TESTS)
        .chain(rounded::TESTS)
        .chain(examples::TESTS);
    let trials = tests.map(|(name, test)| {
        let run = move || {
            let noted = noted::Noted::default();
            let device = CudaDevice::new(0).map_err(failed)?.traced(&noted.trace);
            test(&device).map_err(failed)?;
            device.synchronize().map_err(failed)?;
            noted.passed();
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(reason.is_some())
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

fn failed(error: Error) -> Failed {
    Failed::from(error.to_string())
}

/// Numbers that differ from each other, `seed` from the next.
fn numbers(length: usize, seed: u32) -> Vec<u32> {
    (0..length as u32)
        .map(|i| i.wrapping_mul(2_654_435_761) ^ seed)
        .collect()
}

fn round_trip(device: &CudaDevice) -> Result<(), Error> {
    // The last goes through every staging slot twice and ends within one.
    for length in [0, 1, 255, 1 << 18, (10 << 18) + 17] {
        let expected = numbers(length, 1);
        let buffer = CudaBuffer::upload(device, &expected)?;
        assert_eq!(buffer.download()?, expected, "{length}");
        let mut short = vec![0; length + 1];
        assert!(matches!(buffer.read(&mut short), Err(Error::Length { .. })));
    }
    Ok(())
}

fn zeroed(device: &CudaDevice) -> Result<(), Error> {
    assert!(CudaBuffer::<u32>::zeroed(device, 0)?.download()?.is_empty());
    drop(CudaBuffer::upload(device, &numbers(5000, 2))?);
    assert_eq!(
        CudaBuffer::<u32>::zeroed(device, 5000)?.download()?,
        vec![0; 5000]
    );
    Ok(())
}

fn reuse(device: &CudaDevice) -> Result<(), Error> {
    let first = CudaBuffer::upload(device, &numbers(100_000, 3))?.address();
    let (_, free) = device.memory_bytes();
    let second = CudaBuffer::upload(device, &numbers(100_000, 4))?;
    assert_eq!(
        (second.address(), device.memory_bytes()),
        (first, (free, 0))
    );
    Ok(())
}

fn trimming(device: &CudaDevice) -> Result<(), Error> {
    let kept = CudaBuffer::upload(device, &numbers(1000, 5))?;
    drop(CudaBuffer::upload(device, &numbers(1 << 20, 6))?);
    device.trim();
    assert_eq!(device.memory_bytes().1, 0);
    assert_eq!(kept.download()?, numbers(1000, 5));
    Ok(())
}

fn copies(device: &CudaDevice) -> Result<(), Error> {
    let mut source = CudaBuffer::upload(device, &numbers(70_001, 15))?;
    let mut copy = CudaBuffer::<u32>::zeroed(device, 70_001)?;
    copy.copy_from(&source)?;
    source.zero()?;
    assert_eq!(copy.download()?, numbers(70_001, 15));
    assert_eq!(source.download()?, vec![0; 70_001]);
    let short = CudaBuffer::<u32>::zeroed(device, 70_000)?;
    assert!(matches!(copy.copy_from(&short), Err(Error::Length { .. })));
    let elsewhere = CudaBuffer::upload(&device.with_new_stream()?, &numbers(70_001, 16))?;
    let refused = copy.copy_from(&elsewhere);
    assert!(
        matches!(
            refused,
            Err(Error::Device {
                argument: "other",
                ..
            })
        ),
        "{refused:?}"
    );
    Ok(())
}

fn events(device: &CudaDevice) -> Result<(), Error> {
    let (start, middle, end) = (device.event()?, device.event()?, device.event()?);
    assert!(matches!(
        end.seconds_since(&start),
        Err(Error::Driver { .. })
    ));
    let mut buffer = CudaBuffer::<u32>::zeroed(device, 1 << 20)?;
    start.record()?;
    buffer.zero()?;
    middle.record()?;
    buffer.zero()?;
    end.record()?;
    let whole = end.seconds_since(&start)?;
    let parts = middle.seconds_since(&start)? + end.seconds_since(&middle)?;
    assert!(whole > 0.0);
    approx::assert_abs_diff_eq!(whole, parts, epsilon = 1e-5);
    Ok(())
}

fn graph(device: &CudaDevice) -> Result<(), Error> {
    let mut buffer = CudaBuffer::upload(device, &numbers(1000, 7))?;
    let recorded = numbers(1000, 8);
    let ((), graph) = device.record(|| buffer.write(&recorded))?;
    drop(recorded);
    assert_eq!(
        buffer.download()?,
        numbers(1000, 7),
        "recording runs nothing"
    );
    for seed in [9, 10] {
        buffer.write(&numbers(1000, seed))?;
        // SAFETY: the buffer is alive, and read only after the graph.
        unsafe { graph.launch()? };
        assert_eq!(buffer.download()?, numbers(1000, 8));
    }
    Ok(())
}

fn waiting(device: &CudaDevice) -> Result<(), Error> {
    let buffer = CudaBuffer::upload(device, &numbers(10, 11))?;
    let refused = device.record(|| buffer.download()).map(|_| ());
    assert_eq!(refused, Err(Error::Capture { call: "read" }));
    assert_eq!(buffer.download()?, numbers(10, 11));
    Ok(())
}

fn buffer_in_graph(device: &CudaDevice) -> Result<(), Error> {
    let (buffer, graph) = device.record(|| CudaBuffer::upload(device, &numbers(3000, 12)))?;
    device.trim();
    // SAFETY: the buffer is alive, and read only after the graph.
    unsafe { graph.launch()? };
    assert_eq!(buffer.download()?, numbers(3000, 12));
    Ok(())
}

fn raw(device: &CudaDevice) -> Result<(), Error> {
    let buffer = CudaBuffer::<f32>::zeroed(device, 64)?;
    // SAFETY: 4 rows of 8 at a stride of 16 lie within the buffer.
    let columns = unsafe { CudaRows::<f32>::from_raw(buffer.address() + 32, 4, 8, 16, device)? };
    let region = columns.region();
    assert_eq!((region.rows(), region.dim(), region.stride()), (4, 8, 16));
    assert!(region.overlaps(&buffer.rows(4, 16)?.region()) && !region.is_contiguous());
    // SAFETY: refused before anything is read.
    let null = unsafe { CudaRows::<f32>::from_raw(0, 4, 8, 16, device) };
    assert!(matches!(
        null,
        Err(Error::Null {
            argument: "pointer"
        })
    ));
    Ok(())
}

fn streams(device: &CudaDevice) -> Result<(), Error> {
    let other = device.with_new_stream()?;
    let first = CudaBuffer::upload(device, &numbers(100, 13))?;
    let second = CudaBuffer::upload(&other, &numbers(100, 14))?;
    assert_ne!(first.address(), second.address());
    assert_ne!(device.stream().raw(), other.stream().raw());
    other.stream().wait_for(device.stream())?;
    assert_eq!(second.download()?, numbers(100, 14));
    Ok(())
}

const ROWS: usize = 200;

/// A matrix of ROWS rows on the device, numbers between -1 and 1.
fn matrix(device: &CudaDevice, dim: usize, seed: usize) -> Result<CudaBuffer<bf16>, Error> {
    let number = |i: usize| bf16::from_f32(((i * 37 + seed * 101) as f32).sin());
    let numbers: Vec<bf16> = (0..ROWS * dim).map(number).collect();
    CudaBuffer::upload(device, &numbers)
}

fn pair<'a>(
    q: &'a CudaBuffer<bf16>,
    k: &'a CudaBuffer<bf16>,
    dim: usize,
) -> Result<Inputs<CudaRows<'a, bf16>>, Error> {
    Ok(Inputs::Pair {
        q: q.rows(ROWS, dim)?,
        k: k.rows(ROWS, dim)?,
    })
}

fn gradients<'a>(
    dq: &'a mut CudaBuffer<f32>,
    dk: &'a mut CudaBuffer<f32>,
    dim: usize,
) -> Result<Gradients<CudaRowsMut<'a, f32>>, Error> {
    Ok(Gradients {
        dq: dq.rows_mut(ROWS, dim)?,
        dk: Some(dk.rows_mut(ROWS, dim)?),
    })
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

fn recorded_call(device: &CudaDevice) -> Result<(), Error> {
    let engine = CudaEngine::on(device.clone());
    // Launches that overlap, in the graph, have the bits of launches one after the other.
    let in_turn = CudaEngine::on(device.clone().with_overlapping_launches(false));
    // Fused, and in chunks; positives by index, whose table is sent along.
    for dim in [128, 320] {
        let (q, k) = (matrix(device, dim, 1)?, matrix(device, dim, 2)?);
        let mut dq = CudaBuffer::<f32>::zeroed(device, ROWS * dim)?;
        let mut dk = CudaBuffer::<f32>::zeroed(device, ROWS * dim)?;
        let index = (0..ROWS as u32).rev().collect();
        let contrast = Contrast::info_nce(0.1, Positives::Index(index))?;
        let inputs = pair(&q, &k, dim)?;

        let plain =
            in_turn.value_and_grad(&contrast, &inputs, 1.0, gradients(&mut dq, &mut dk, dim)?)?;
        let expected = (bits(&dq.download()?), bits(&dk.download()?));
        let outputs = gradients(&mut dq, &mut dk, dim)?;
        let (results, graph) = device
            .record(|| engine.value_and_grad_on_device(&contrast, &inputs, 1.0, outputs, None))?;
        for _ in 0..3 {
            dq.write(&vec![f32::NAN; ROWS * dim])?;
            dk.write(&vec![f32::NAN; ROWS * dim])?;
            // SAFETY: all buffers are alive, and read only after the graph.
            unsafe { graph.launch()? };
            let ([loss, dscale], statistics) = results.read()?;
            assert_eq!(bits(&[loss, dscale]), bits(&[plain.loss, plain.dscale]));
            assert_eq!(statistics, plain.statistics);
            assert_eq!((bits(&dq.download()?), bits(&dk.download()?)), expected);
        }
    }
    Ok(())
}

/// Results and gradient of one call on a handle.
fn plain_call(device: &CudaDevice) -> Result<(ValueAndGrad, Vec<u32>), Error> {
    let engine = CudaEngine::on(device.clone());
    let dim = 64;
    let z = matrix(device, dim, 3)?;
    let mut dz = CudaBuffer::<f32>::zeroed(device, ROWS * dim)?;
    let gradients = Gradients {
        dq: dz.rows_mut(ROWS, dim)?,
        dk: None,
    };
    let z = Inputs::Shared {
        z: z.rows(ROWS, dim)?,
    };
    let value = engine.value_and_grad(&Contrast::nt_xent(0.5)?, &z, 1.0, gradients)?;
    Ok((value, bits(&dz.download()?)))
}

fn recorded_at_once(device: &CudaDevice) -> Result<(), Error> {
    let expected = plain_call(device)?.0;
    // No kernel is loaded, no memory allocated.
    let device = CudaDevice::new(0)?;
    let engine = CudaEngine::on(device.clone());
    let ((_z, results), graph) = device.record(|| {
        let z = matrix(&device, 64, 3)?;
        let inputs = Inputs::Shared {
            z: z.rows(ROWS, 64)?,
        };
        let results = engine.forward_on_device(&Contrast::nt_xent(0.5)?, &inputs, None)?;
        Ok((z, results))
    })?;
    // SAFETY: the matrix is alive.
    unsafe { graph.launch()? };
    let ([loss, _], statistics) = results.read()?;
    assert_eq!(bits(&[loss]), bits(&[expected.loss]));
    assert_eq!(statistics, expected.statistics);
    Ok(())
}

fn dropped(_: &CudaDevice) -> Result<(), Error> {
    // A handle of its own, with kernels of its own.
    let device = CudaDevice::new(0)?;
    let engine = CudaEngine::on(device.clone());
    let z = matrix(&device, 64, 3)?;
    let inputs = Inputs::Shared {
        z: z.rows(ROWS, 64)?,
    };
    engine.forward_on_device(&Contrast::nt_xent(0.5)?, &inputs, None)?;
    drop((z, engine, device));
    // An error would be met by the next handle.
    CudaDevice::new(0)?.synchronize()
}

fn threads(device: &CudaDevice) -> Result<(), Error> {
    let expected = plain_call(&device.clone().with_overlapping_launches(false))?;
    let others = [device.with_new_stream()?, device.with_new_stream()?];
    std::thread::scope(|scope| {
        let handles = [device, device, &others[0], &others[1]];
        let threads = handles.map(|device| scope.spawn(|| plain_call(device)));
        for thread in threads {
            assert_eq!(thread.join().expect("no panic")?, expected);
        }
        Ok(())
    })
}

fn workspace(device: &CudaDevice) -> Result<(), Error> {
    // A handle of its own: a pool that is empty but for the arguments.
    let device = device.with_new_stream()?;
    let engine = CudaEngine::on(device.clone()).with_weights_budget(1 << 16);
    for dim in [100, 128, 320] {
        let (q, k) = (matrix(&device, dim, 1)?, matrix(&device, dim, 2)?);
        let mut dq = CudaBuffer::<f32>::zeroed(&device, ROWS * dim)?;
        let mut dk = CudaBuffer::<f32>::zeroed(&device, ROWS * dim)?;
        device.trim();
        let (before, _) = device.memory_bytes();
        let contrast = Contrast::clip(10.0)?;
        let inputs = pair(&q, &k, dim)?;
        let shape = Shape {
            anchors: ROWS,
            candidates: ROWS,
            dim,
        };
        let call = Call::ValueAndGrad { dk: true };
        let announced = engine.workspace_bytes(call, &contrast, shape, DType::Bf16)?;
        for _ in 0..3 {
            engine.value_and_grad(&contrast, &inputs, 1.0, gradients(&mut dq, &mut dk, dim)?)?;
            let (used, free) = device.memory_bytes();
            assert_eq!(used + free - before, announced, "D = {dim}");
        }
    }
    Ok(())
}

fn on_device(device: &CudaDevice) -> Result<(), Error> {
    let engine = CudaEngine::on(device.clone());
    let dim = 64;
    let (q, k) = (matrix(device, dim, 1)?, matrix(device, dim, 2)?);
    let inputs = pair(&q, &k, dim)?;
    let mut dq = CudaBuffer::<f32>::zeroed(device, ROWS * dim)?;
    let mut dk = CudaBuffer::<f32>::zeroed(device, ROWS * dim)?;
    let scale = CudaBuffer::upload(device, &[7.5f32])?;
    let contrast = Contrast::clip(7.5)?;
    let forward = engine.forward(&contrast, &inputs)?;
    let outputs = gradients(&mut dq, &mut dk, dim)?;
    let dscale = engine.backward(&contrast, &inputs, &forward.statistics, 2.0, outputs)?;
    let expected = (bits(&dq.download()?), bits(&dk.download()?));

    let other = Contrast::clip(1.0)?;
    let kept = engine.forward_on_device(&other, &inputs, Some(scale.vector()?))?;
    let outputs = gradients(&mut dq, &mut dk, dim)?;
    let scale = Some(scale.vector()?);
    let number = engine.backward_on_device(&other, &inputs, &kept, 2.0, outputs, scale)?;
    let ([loss, _], statistics) = kept.read()?;
    assert_eq!(bits(&[loss, number.read()?]), bits(&[forward.loss, dscale]));
    assert_eq!(statistics, forward.statistics);
    assert_eq!((bits(&dq.download()?), bits(&dk.download()?)), expected);
    Ok(())
}

fn aliasing(device: &CudaDevice) -> Result<(), Error> {
    let engine = CudaEngine::on(device.clone());
    let mut z = CudaBuffer::<f32>::zeroed(device, ROWS * 8)?;
    let (address, home) = (z.address(), device.clone());
    // SAFETY: within the buffer; the call is refused before it reads or writes.
    let (input, output) = unsafe {
        (
            CudaRows::<f32>::from_raw(address, ROWS, 8, 8, &home)?,
            CudaRowsMut::<f32>::from_raw(address, ROWS, 8, 8, &home)?,
        )
    };
    let gradients = Gradients {
        dq: output,
        dk: None,
    };
    let refused = engine.value_and_grad(
        &Contrast::nt_xent(0.5)?,
        &Inputs::Shared { z: input },
        1.0,
        gradients,
    );
    let expected = Error::Aliasing {
        argument: "gradients.dq",
        other: "z",
    };
    assert_eq!(refused.map(|_| ()), Err(expected));
    // SAFETY: as above.
    let norms = unsafe { CudaVector::<f32>::from_raw(address, ROWS, &home)? };
    let other = CudaBuffer::<f32>::zeroed(device, ROWS * 8)?;
    let y = other.rows(ROWS, 8)?;
    let refused = engine.normalize_backward(y, norms, y, z.rows_mut(ROWS, 8)?, 1e-12);
    assert!(matches!(
        refused,
        Err(Error::Aliasing { argument: "dx", .. })
    ));
    Ok(())
}

fn strided(device: &CudaDevice) -> Result<(), Error> {
    let engine = CudaEngine::on(device.clone());
    // Rows that start at multiples of 16 bytes and are read where they lie, and rows that do not.
    for (dim, stride, offset) in [(64, 96, 16), (30, 61, 3)] {
        let number = |i: usize| bf16::from_f32((i as f32).cos());
        let numbers: Vec<bf16> = (0..ROWS * stride).map(number).collect();
        let copied: Vec<bf16> = numbers
            .chunks(stride)
            .flat_map(|row| row[offset..offset + dim].to_vec())
            .collect();
        let whole = CudaBuffer::upload(device, &numbers)?;
        let copied = CudaBuffer::upload(device, &copied)?;
        let pointer = whole.address() + 2 * offset as u64;
        // SAFETY: ROWS rows of `dim` at `stride` from `offset` on lie within the buffer.
        let part = unsafe { CudaRows::<bf16>::from_raw(pointer, ROWS, dim, stride, device)? };
        let mut results = Vec::new();
        for z in [part, copied.rows(ROWS, dim)?] {
            let mut dz = CudaBuffer::<f32>::zeroed(device, ROWS * dim)?;
            let gradients = Gradients {
                dq: dz.rows_mut(ROWS, dim)?,
                dk: None,
            };
            let contrast = Contrast::nt_xent(0.5)?;
            let value = engine.value_and_grad(&contrast, &Inputs::Shared { z }, 1.0, gradients)?;
            results.push((value, bits(&dz.download()?)));
        }
        assert_eq!(results[0], results[1], "D = {dim}");
    }
    Ok(())
}

fn queue(device: &CudaDevice) -> Result<(), Error> {
    let engine = CudaEngine::on(device.clone());
    let mut on_host = KeyQueue::<bf16>::new(7, 5)?;
    let mut on_device = CudaQueue::from_host(device, &on_host)?;
    assert!(on_device.filled().is_none());
    for batch in [3, 1, 5, 7, 16, 2] {
        let number = |i: usize| bf16::from_f32((i + batch) as f32);
        let keys: Vec<bf16> = (0..batch * 5).map(number).collect();
        let cpu = infonce::CpuEngine::new();
        cpu.enqueue(&mut on_host, infonce::Rows::new(&keys, batch, 5)?)?;
        let keys = CudaBuffer::upload(device, &keys)?;
        engine.enqueue(&mut on_device, keys.rows(batch, 5)?)?;
        assert_eq!(on_device.to_host()?, on_host);
        assert_eq!(on_device.fill(), on_host.fill());
    }
    Ok(())
}

fn best_on_device(device: &CudaDevice) -> Result<(), Error> {
    let engine = CudaEngine::on(device.clone());
    let (queries, candidates) = (matrix(device, 24, 1)?, matrix(device, 24, 2)?);
    let (queries, candidates) = (queries.rows(ROWS, 24)?, candidates.rows(ROWS, 24)?);
    let best = engine.top_k_on_device(queries, candidates, 7, true)?;
    assert_eq!(best.read()?, engine.top_k(queries, candidates, 7, true)?);
    assert_eq!(
        (best.indices().len(), best.scores().len()),
        (7 * ROWS, 7 * ROWS)
    );
    Ok(())
}
