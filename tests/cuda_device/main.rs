//! Tests a CUDA device's memory, streams and graphs, and the engine's results on it. Without a device every test is
//! ignored, with the reason; `INFONCE_REQUIRE_CUDA` makes all fail instead.

use half::bf16;
use infonce::cuda::{
    CudaBuffer, CudaDevice, CudaEngine, CudaQueue, CudaResults, CudaRows, CudaRowsMut,
    CudaStatistics, CudaVector, probe,
};
use infonce::{
    Contrast, CudaError, DType, Engine, Error, Evaluation, Gradients, Inputs, KeyQueue, Memory,
    MemoryBank, NO_POSITIVE, Positives, Read, RowStatistics, Shape, Statistics, Triplet, Triplets,
    Work,
};
use libtest_mimic::{Arguments, Trial};

type Test = fn(&CudaDevice) -> Result<(), Error>;

/// Tests under the names of their functions.
macro_rules! tests {
    ($($test:ident),* $(,)?) => { &[$((stringify!($test), $test as Test)),*] };
}

mod examples;
mod memory;
mod no_device;
mod noted;
mod rounded;
mod step;

const TESTS: &[(&str, Test)] = tests![
    a_recorded_call_gives_the_bits_of_a_plain_one,
    a_recorded_triplet_loss_gives_the_bits_of_a_plain_one,
    the_first_call_of_a_handle_may_be_recorded,
    a_handle_may_be_dropped_while_its_work_is_running,
    threads_get_the_same_bits_from_any_handles,
    the_first_call_of_a_shape_allocates_what_was_announced,
    scale_and_statistics_on_the_device_change_no_bit,
    outputs_that_share_memory_with_an_argument_are_refused,
    columns_of_a_larger_matrix_give_the_bits_of_a_copy,
    a_queue_on_the_device_holds_what_one_on_the_host_holds,
    a_bank_on_the_device_moves_its_named_rows,
    the_best_left_on_the_device_are_those_that_are_read,
    shards_of_the_candidates_give_the_gradients_of_all,
];

fn main() {
    let arguments = Arguments::from_args();
    let reason = probe().err().map(|error| error.to_string());
    if let Some(reason) = &reason {
        no_device::ignored(reason);
    }
    let all = [
        memory::TESTS,
        TESTS,
        step::TESTS,
        rounded::TESTS,
        examples::TESTS,
    ];
    let trials = all.into_iter().flatten().map(|&(name, test)| {
        let run = move || {
            let noted = noted::Noted::default();
            let device = CudaDevice::new(0)?.traced(&noted.trace);
            test(&device)?;
            device.synchronize()?;
            noted.passed();
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(reason.is_some())
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

const ROWS: usize = 200;

/// A matrix of ROWS rows on the device, its elements between -1 and 1.
fn matrix(device: &CudaDevice, dim: usize, seed: usize) -> Result<CudaBuffer<bf16>, Error> {
    let element = |i: usize| bf16::from_f32(((i * 37 + seed * 101) as f32).sin());
    let elements: Vec<bf16> = (0..ROWS * dim).map(element).collect();
    CudaBuffer::upload(device, &elements)
}

fn pair<'a>(
    q: &'a CudaBuffer<bf16>,
    k: &'a CudaBuffer<bf16>,
    dim: usize,
) -> Result<Inputs<CudaRows<'a, bf16>>, Error> {
    Ok(Inputs::pair(q.rows(ROWS, dim)?, k.rows(ROWS, dim)?))
}

fn gradients<'a>(
    dq: &'a mut CudaBuffer<f32>,
    dk: &'a mut CudaBuffer<f32>,
    dim: usize,
) -> Result<Gradients<CudaRowsMut<'a, f32>>, Error> {
    let dk = Some(dk.rows_mut(ROWS, dim)?);
    Ok(Gradients::new(dq.rows_mut(ROWS, dim)?, dk))
}

fn bits(elements: &[f32]) -> Vec<u32> {
    elements.iter().map(|element| element.to_bits()).collect()
}

/// The error of an output that shares memory with another argument.
fn aliasing(argument: &'static str, other: &'static str) -> Error {
    CudaError::Aliasing { argument, other }.into()
}

/// Bits of loss and dscale, and the statistics.
fn left(results: &CudaResults) -> Result<([u32; 2], Statistics), Error> {
    let values = [results.loss()?, results.dscale()?];
    Ok((values.map(f32::to_bits), results.statistics().read()?))
}

fn a_recorded_call_gives_the_bits_of_a_plain_one(device: &CudaDevice) -> Result<(), Error> {
    let engine = CudaEngine::on(device.clone());
    // Overlapping launches, in the graph, give the bits of launches one after another.
    let serial = CudaEngine::on(device.clone().with_overlapping_launches(false));
    // D = 128 takes the fused kernels, D = 320 the chunked ones.
    let index: Vec<u32> = (0..ROWS as u32).rev().collect();
    let index = CudaBuffer::upload(device, &index)?;
    for dim in [128, 320] {
        let (q, k) = (matrix(device, dim, 1)?, matrix(device, dim, 2)?);
        let mut dq = CudaBuffer::<f32>::zeroed(device, ROWS * dim)?;
        let mut dk = CudaBuffer::<f32>::zeroed(device, ROWS * dim)?;
        let problem = Contrast::info_nce(0.1)?.on(Inputs::Pair {
            q: q.rows(ROWS, dim)?,
            k: k.rows(ROWS, dim)?,
            positives: Positives::Index(index.vector()?),
        })?;

        let plain = serial.value_and_grad(&problem, 1.0, gradients(&mut dq, &mut dk, dim)?)?;
        let plain = left(&plain)?;
        let expected = (bits(&dq.download()?), bits(&dk.download()?));
        let outputs = gradients(&mut dq, &mut dk, dim)?;
        let (results, graph) = device.record(|| engine.value_and_grad(&problem, 1.0, outputs))?;
        for _ in 0..3 {
            dq.write(&vec![f32::NAN; ROWS * dim])?;
            dk.write(&vec![f32::NAN; ROWS * dim])?;
            // SAFETY: all buffers are alive, and read only after the graph.
            unsafe { graph.launch()? };
            assert_eq!(left(&results)?, plain);
            assert_eq!((bits(&dq.download()?), bits(&dk.download()?)), expected);
        }
    }
    Ok(())
}

fn a_recorded_triplet_loss_gives_the_bits_of_a_plain_one(device: &CudaDevice) -> Result<(), Error> {
    let (engine, dim) = (CudaEngine::on(device.clone()), 72);
    let (q, k) = (matrix(device, dim, 1)?, matrix(device, dim, 2)?);
    let mut dq = CudaBuffer::<f32>::zeroed(device, ROWS * dim)?;
    let mut dk = CudaBuffer::<f32>::zeroed(device, ROWS * dim)?;
    let index = |step: u32| -> Vec<u32> { (0..ROWS as u32).map(|i| i * step % 9).collect() };
    let positives = CudaBuffer::upload(device, &index(1))?;
    let negatives = CudaBuffer::upload(device, &index(4))?;
    let problem = Triplet::new(2.0)?.on(Triplets {
        q: q.rows(ROWS, dim)?,
        k: Some(k.rows(ROWS, dim)?),
        positives: positives.vector()?,
        negatives: negatives.vector()?,
    })?;
    let plain = engine.triplet(&problem, 1.0, gradients(&mut dq, &mut dk, dim)?)?;
    let plain = plain.read()?;
    let expected = (bits(&dq.download()?), bits(&dk.download()?));
    let outputs = gradients(&mut dq, &mut dk, dim)?;
    let (loss, graph) = device.record(|| engine.triplet(&problem, 1.0, outputs))?;
    for _ in 0..2 {
        dq.write(&vec![f32::NAN; ROWS * dim])?;
        dk.write(&vec![f32::NAN; ROWS * dim])?;
        // SAFETY: all buffers are alive, and read only after the graph.
        unsafe { graph.launch()? };
        assert_eq!(loss.read()?.to_bits(), plain.to_bits());
        assert_eq!((bits(&dq.download()?), bits(&dk.download()?)), expected);
    }
    Ok(())
}

/// Results and gradient of one call on a handle.
#[expect(clippy::type_complexity, reason = "bits of all that a call leaves")]
fn plain_call(device: &CudaDevice) -> Result<(([u32; 2], Statistics), Vec<u32>), Error> {
    let engine = CudaEngine::on(device.clone());
    let dim = 64;
    let z = matrix(device, dim, 3)?;
    let mut dz = CudaBuffer::<f32>::zeroed(device, ROWS * dim)?;
    let gradients = Gradients::new(dz.rows_mut(ROWS, dim)?, None);
    let problem = Contrast::nt_xent(0.5)?.on(Inputs::Shared {
        z: z.rows(ROWS, dim)?,
    })?;
    let value = left(&engine.value_and_grad(&problem, 1.0, gradients)?)?;
    Ok((value, bits(&dz.download()?)))
}

fn the_first_call_of_a_handle_may_be_recorded(device: &CudaDevice) -> Result<(), Error> {
    let ([loss, _], statistics) = plain_call(device)?.0;
    // A new handle has loaded no kernel and allocated no memory.
    let device = CudaDevice::new(0)?;
    let engine = CudaEngine::on(device.clone());
    let ((_z, results), graph) = device.record(|| {
        let z = matrix(&device, 64, 3)?;
        let problem = Contrast::nt_xent(0.5)?.on(Inputs::Shared {
            z: z.rows(ROWS, 64)?,
        })?;
        let results = engine.forward(&problem)?;
        Ok((z, results))
    })?;
    // SAFETY: the matrix is alive.
    unsafe { graph.launch()? };
    assert_eq!(left(&results)?, ([loss, 0f32.to_bits()], statistics));
    Ok(())
}

fn a_handle_may_be_dropped_while_its_work_is_running(_: &CudaDevice) -> Result<(), Error> {
    // A new handle, which loads its own modules.
    let device = CudaDevice::new(0)?;
    let engine = CudaEngine::on(device.clone());
    let z = matrix(&device, 64, 3)?;
    let problem = Contrast::nt_xent(0.5)?.on(Inputs::Shared {
        z: z.rows(ROWS, 64)?,
    })?;
    engine.forward(&problem)?;
    drop((z, engine, device));
    // An error of the dropped handle's work would fail the next handle.
    CudaDevice::new(0)?.synchronize()
}

fn threads_get_the_same_bits_from_any_handles(device: &CudaDevice) -> Result<(), Error> {
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

fn the_first_call_of_a_shape_allocates_what_was_announced(
    device: &CudaDevice,
) -> Result<(), Error> {
    // A new handle, whose memory pool has only the arguments.
    let device = device.with_new_stream()?;
    let engine = CudaEngine::on(device.clone()).with_weights_budget(1 << 16);
    for dim in [100, 128, 320] {
        let (q, k) = (matrix(&device, dim, 1)?, matrix(&device, dim, 2)?);
        let mut dq = CudaBuffer::<f32>::zeroed(&device, ROWS * dim)?;
        let mut dk = CudaBuffer::<f32>::zeroed(&device, ROWS * dim)?;
        device.trim();
        let (before, _) = device.memory_bytes();
        let contrast = Contrast::clip(10.0)?;
        let problem = contrast.on(pair(&q, &k, dim)?)?;
        let shape = Shape {
            anchors: ROWS,
            candidates: ROWS,
            dim,
        };
        let call = Work::ValueAndGrad { dk: true };
        let announced = engine.workspace_bytes(call, &contrast, shape, DType::Bf16)?;
        for _ in 0..3 {
            engine.value_and_grad(&problem, 1.0, gradients(&mut dq, &mut dk, dim)?)?;
            let (used, free) = device.memory_bytes();
            assert_eq!(used + free - before, announced, "D = {dim}");
        }
    }
    Ok(())
}

fn scale_and_statistics_on_the_device_change_no_bit(device: &CudaDevice) -> Result<(), Error> {
    let engine = CudaEngine::on(device.clone());
    let dim = 64;
    let (q, k) = (matrix(device, dim, 1)?, matrix(device, dim, 2)?);
    let inputs = pair(&q, &k, dim)?;
    let mut dq = CudaBuffer::<f32>::zeroed(device, ROWS * dim)?;
    let mut dk = CudaBuffer::<f32>::zeroed(device, ROWS * dim)?;
    let scale = CudaBuffer::upload(device, &[7.5f32])?;
    let problem = Contrast::clip(7.5)?.on(inputs)?;
    let forward = left(&engine.forward(&problem)?)?;
    let given = CudaStatistics::upload(device, &forward.1)?;
    let outputs = gradients(&mut dq, &mut dk, dim)?;
    let dscale = engine.backward(&problem, &given, 2.0, outputs)?.read()?;
    let expected = (bits(&dq.download()?), bits(&dk.download()?));

    let problem = Contrast::clip(1.0)?.on(inputs)?.with_scale(scale.vector()?);
    let kept = engine.forward(&problem)?;
    let found = kept.statistics();
    let copied = CudaStatistics::copied(device, found.rows(), found.columns())?;
    for statistics in [found, &copied] {
        dq.write(&vec![f32::NAN; ROWS * dim])?;
        let outputs = gradients(&mut dq, &mut dk, dim)?;
        let found = engine.backward(&problem, statistics, 2.0, outputs)?;
        assert_eq!(bits(&[found.read()?]), bits(&[dscale]));
        assert_eq!((bits(&dq.download()?), bits(&dk.download()?)), expected);
    }
    assert_eq!(left(&kept)?, forward);
    Ok(())
}

fn outputs_that_share_memory_with_an_argument_are_refused(
    device: &CudaDevice,
) -> Result<(), Error> {
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
    let problem = Contrast::nt_xent(0.5)?.on(Inputs::Shared { z: input })?;
    let refused = engine.value_and_grad(&problem, 1.0, Gradients::new(output, None));
    assert_eq!(refused.err(), Some(aliasing("gradients.dq", "z")));
    // Input vectors must not share memory with outputs either.
    let mut dq = CudaBuffer::<f32>::zeroed(device, ROWS * 8)?;
    // SAFETY: as above.
    let (index, scale) = unsafe {
        (
            CudaVector::<u32>::from_raw(dq.address(), ROWS, &home)?,
            CudaVector::<f32>::from_raw(dq.address(), 1, &home)?,
        )
    };
    let (q, k) = (input, input);
    let by_index = Inputs::Pair {
        q,
        k,
        positives: Positives::Index(index),
    };
    let contrast = Contrast::info_nce(0.1)?;
    for (other, problem) in [
        ("positives", contrast.on(by_index)?),
        ("scale", contrast.on(Inputs::pair(q, k))?.with_scale(scale)),
    ] {
        let gradients = Gradients::new(dq.rows_mut(ROWS, 8)?, None);
        let refused = engine.value_and_grad(&problem, 1.0, gradients);
        assert_eq!(refused.err(), Some(aliasing("gradients.dq", other)));
    }
    let triplets = Triplets {
        q,
        k: None,
        positives: index,
        negatives: index,
    };
    let gradients = Gradients::new(dq.rows_mut(ROWS, 8)?, None);
    let refused = engine.triplet(&Triplet::default().on(triplets)?, 1.0, gradients);
    assert_eq!(refused.err(), Some(aliasing("gradients.dq", "positives")));
    let rows = RowStatistics {
        negatives_lse: vec![0.0; ROWS],
        positive: vec![0.0; ROWS],
        ..RowStatistics::default()
    };
    let columns = None;
    let statistics = CudaStatistics::upload(device, &Statistics { rows, columns })?;
    let lse = statistics.rows()[0].region().address();
    // SAFETY: as above.
    let output = unsafe { CudaRowsMut::<f32>::from_raw(lse, ROWS, 8, 8, &home)? };
    let gradients = Gradients::new(output, None);
    let refused = engine.backward(&problem, &statistics, 1.0, gradients);
    assert_eq!(refused.err(), Some(aliasing("gradients.dq", "statistics")));
    // SAFETY: as above.
    let norms = unsafe { CudaVector::<f32>::from_raw(address, ROWS, &home)? };
    let other = CudaBuffer::<f32>::zeroed(device, ROWS * 8)?;
    let y = other.rows(ROWS, 8)?;
    let refused = engine.normalize_backward(y, norms, y, z.rows_mut(ROWS, 8)?, 1e-12);
    assert!(matches!(
        refused,
        Err(Error::Cuda(CudaError::Aliasing { argument: "dx", .. }))
    ));
    Ok(())
}

fn columns_of_a_larger_matrix_give_the_bits_of_a_copy(device: &CudaDevice) -> Result<(), Error> {
    let engine = CudaEngine::on(device.clone());
    // Rows that start at multiples of 16 bytes and are read in place, and rows that do not.
    for (dim, stride, offset) in [(64, 96, 16), (30, 61, 3)] {
        let element = |i: usize| bf16::from_f32((i as f32).cos());
        let elements: Vec<bf16> = (0..ROWS * stride).map(element).collect();
        let copied: Vec<bf16> = elements
            .chunks(stride)
            .flat_map(|row| row[offset..offset + dim].to_vec())
            .collect();
        let whole = CudaBuffer::upload(device, &elements)?;
        let copied = CudaBuffer::upload(device, &copied)?;
        let pointer = whole.address() + 2 * offset as u64;
        // SAFETY: ROWS rows of `dim` at `stride` from `offset` on lie within the buffer.
        let columns = unsafe { CudaRows::<bf16>::from_raw(pointer, ROWS, dim, stride, device)? };
        let mut results = Vec::new();
        for z in [columns, copied.rows(ROWS, dim)?] {
            let mut dz = CudaBuffer::<f32>::zeroed(device, ROWS * dim)?;
            let gradients = Gradients::new(dz.rows_mut(ROWS, dim)?, None);
            let problem = Contrast::nt_xent(0.5)?.on(Inputs::Shared { z })?;
            let value = left(&engine.value_and_grad(&problem, 1.0, gradients)?)?;
            results.push((value, bits(&dz.download()?)));
        }
        assert_eq!(results[0], results[1], "D = {dim}");
    }
    Ok(())
}

fn a_queue_on_the_device_holds_what_one_on_the_host_holds(
    device: &CudaDevice,
) -> Result<(), Error> {
    let engine = CudaEngine::on(device.clone());
    let mut on_host = KeyQueue::<bf16>::new(7, 5)?;
    let mut on_device = CudaQueue::from_host(device, &on_host)?;
    let mut labelled_host = on_host.clone().with_labels(&[])?;
    let mut labelled = CudaQueue::from_host(device, &labelled_host)?;
    assert!(on_device.filled().is_none() && labelled.labels().is_none());
    for batch in [3, 1, 5, 7, 16, 2] {
        let element = |i: usize| bf16::from_f32((i + batch) as f32);
        let keys: Vec<bf16> = (0..batch * 5).map(element).collect();
        let cpu = infonce::CpuEngine::new();
        cpu.enqueue(&mut on_host, infonce::Rows::new(&keys, batch, 5)?)?;
        let labels: Vec<u32> = (0..batch as u32).map(|i| NO_POSITIVE - i % 3).collect();
        let keys_there = CudaBuffer::upload(device, &keys)?;
        let labels_there = CudaBuffer::upload(device, &labels)?;
        let view = keys_there.rows(batch, 5)?;
        engine.enqueue(&mut on_device, view)?;
        assert_eq!(on_device.to_host()?, on_host);
        cpu.enqueue_labelled(
            &mut labelled_host,
            infonce::Rows::new(&keys, batch, 5)?,
            &labels,
        )?;
        engine.enqueue_labelled(&mut labelled, view, labels_there.vector()?)?;
        assert_eq!(labelled.to_host()?, labelled_host);
        assert_eq!(
            labelled.labels().map(|labels| labels.len()),
            Some(labelled.fill())
        );
        assert!(engine.enqueue(&mut labelled, view).is_err());
        assert_eq!(on_device.fill(), on_host.fill());
    }
    Ok(())
}

fn a_bank_on_the_device_moves_its_named_rows(device: &CudaDevice) -> Result<(), Error> {
    let engine = CudaEngine::on(device.clone());
    let (rows, dim) = (9, 20);
    let mut bank = MemoryBank::<f32>::random(rows, dim, 1)?;
    let keys = MemoryBank::<f32>::random(4, dim, 2)?;
    let mut there = CudaBuffer::upload(device, bank.elements())?;
    let keys_there = CudaBuffer::upload(device, keys.elements())?;
    let view = keys_there.rows(4, dim)?;
    // Index 9, which the host refuses in its own memory, names no row of the device's.
    let index = CudaBuffer::upload(device, &[8, 2, 9, 2])?;
    engine.update_rows(there.rows_mut(rows, dim)?, index.vector()?, view, 0.5)?;
    let cpu = infonce::CpuEngine::new();
    cpu.update_rows(
        bank.as_rows_mut(),
        &[8, 2, NO_POSITIVE, 2],
        keys.as_rows(),
        0.5,
    )?;
    let found = there.download()?;
    let pairs = found.iter().zip(bank.elements());
    assert!(pairs.into_iter().all(|(x, y)| (x - y).abs() < 1e-6));
    assert_eq!(found[..2 * dim], bank.elements()[..2 * dim]);

    let shared = there.rows_mut(rows, dim)?;
    // SAFETY: the first rows of the bank.
    let first = unsafe { CudaRows::from_raw(shared.region().address(), 4, dim, dim, device)? };
    let refused = engine.update_rows(shared, index.vector()?, first, 0.5);
    assert_eq!(refused, Err(aliasing("bank", "keys")));
    Ok(())
}

fn the_best_left_on_the_device_are_those_that_are_read(device: &CudaDevice) -> Result<(), Error> {
    let engine = CudaEngine::on(device.clone());
    let (queries, candidates) = (matrix(device, 24, 1)?, matrix(device, 24, 2)?);
    let (queries, candidates) = (queries.rows(ROWS, 24)?, candidates.rows(ROWS, 24)?);
    let (best, graph) = device.record(|| engine.top_k(queries, candidates, 7, true))?;
    // SAFETY: the matrices are alive.
    unsafe { graph.launch()? };
    assert_eq!(
        best.read()?,
        engine.top_k(queries, candidates, 7, true)?.read()?
    );
    assert_eq!(
        (best.indices().len(), best.scores().len()),
        (7 * ROWS, 7 * ROWS)
    );
    Ok(())
}

/// Two halves of the candidates, each with its own statistics, which are merged.
fn shards_of_the_candidates_give_the_gradients_of_all(device: &CudaDevice) -> Result<(), Error> {
    let engine = CudaEngine::on(device.clone());
    let (dim, half) = (40, ROWS / 2);
    let matrix = |seed: usize| {
        let element = |i: usize| ((i * 37 + seed * 101) as f32).sin();
        let elements: Vec<f32> = (0..ROWS * dim).map(element).collect();
        CudaBuffer::upload(device, &elements)
    };
    let (q, k) = (matrix(1)?, matrix(2)?);
    let q = q.rows(ROWS, dim)?;
    let contrast = Contrast::info_nce(5.0)?;
    let mut dq = CudaBuffer::<f32>::zeroed(device, ROWS * dim)?;
    let mut dk = CudaBuffer::<f32>::zeroed(device, ROWS * dim)?;
    let whole = contrast.on(Inputs::pair(q, k.rows(ROWS, dim)?))?;
    let outputs = gradients(&mut dq, &mut dk, dim)?;
    let value = engine.value_and_grad(&whole, 2.0, outputs)?;
    let expected = (dq.download()?, dk.download()?);

    let index: Vec<u32> = (0..ROWS)
        .map(|i| i.checked_sub(half).map_or(NO_POSITIVE, |j| j as u32))
        .collect();
    let index = CudaBuffer::upload(device, &index)?;
    let address = |first: usize| k.address() + (4 * first * dim) as u64;
    // SAFETY: halves of the rows of `k`.
    let [first, second] = [0, half]
        .map(|first| unsafe { CudaRows::<f32>::from_raw(address(first), half, dim, dim, device) });
    let (first, second) = (first?, second?);
    let index = Positives::Index(index.vector()?);
    for positives in [Positives::Offset(-(half as i64)), index] {
        let k = second;
        let shards = [
            contrast.on(Inputs::pair(q, first))?,
            contrast.on(Inputs::Pair { q, k, positives })?,
        ];
        let found = [engine.forward(&shards[0])?, engine.forward(&shards[1])?];
        let [found, others] = [found[0].statistics(), found[1].statistics()];
        let mut merged = CudaStatistics::copied(device, found.rows(), None)?;
        engine.merge(&mut merged, others)?;
        let loss = merged.read()?.loss(&contrast, ROWS);
        approx::assert_relative_eq!(loss, value.loss()?, max_relative = 1e-5);

        let mut dscale = 0.0;
        dq.zero()?;
        dk.zero()?;
        for (shard, first) in shards.iter().zip([0, half]) {
            let to = dk.address() + (4 * first * dim) as u64;
            // SAFETY: half of the rows of `dk`, which nothing else has now.
            let to = unsafe { CudaRowsMut::<f32>::from_raw(to, half, dim, dim, device)? };
            let outputs = Gradients::new(dq.rows_mut(ROWS, dim)?, Some(to)).accumulating();
            dscale += engine.backward(shard, &merged, 2.0, outputs)?.read()?;
        }
        let largest = |elements: &[f32]| elements.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        for (found, expected) in [(dq.download()?, &expected.0), (dk.download()?, &expected.1)] {
            let off: Vec<f32> = found.iter().zip(expected).map(|(a, b)| a - b).collect();
            let off = largest(&off) / largest(expected);
            assert!(off < 1e-4, "off by {off} of the largest");
        }
        approx::assert_relative_eq!(dscale, value.dscale()?, max_relative = 1e-4);
    }

    let mut merged = CudaStatistics::copied(device, value.statistics().rows(), None)?;
    let other = device.with_new_stream()?.statistics(&merged.read()?)?;
    let refused = engine.merge(&mut merged, &other);
    assert!(matches!(
        refused,
        Err(Error::Cuda(CudaError::Device {
            argument: "others",
            ..
        }))
    ));
    Ok(())
}
