//! Memory, streams, events and graphs of a device.

use infonce::cuda::{CudaBuffer, CudaDevice, CudaRows};
use infonce::{CudaError, Error};

use super::Test;

pub const TESTS: &[(&str, Test)] = tests![
    what_is_uploaded_comes_back,
    a_zeroed_buffer_holds_zeros_in_memory_used_before,
    the_next_buffer_takes_the_memory_of_a_dropped_one,
    trimming_frees_memory_that_nothing_uses,
    a_copy_has_the_elements_of_its_source_as_they_were,
    events_measure_the_time_between_them,
    a_graph_copies_what_was_recorded_each_time_it_runs,
    waiting_while_recording_is_refused_and_harms_nothing,
    a_buffer_made_while_recording_is_used_by_the_graph,
    raw_pointers_are_viewed_with_their_stride,
    a_second_stream_has_its_own_memory_and_can_wait,
];

/// Words that differ from each other and from those of another `seed`.
fn words(length: usize, seed: u32) -> Vec<u32> {
    (0..length as u32)
        .map(|i| i.wrapping_mul(2_654_435_761) ^ seed)
        .collect()
}

fn what_is_uploaded_comes_back(device: &CudaDevice) -> Result<(), Error> {
    // The last goes through every staging slot twice and ends within one.
    for length in [0, 1, 255, 1 << 18, (10 << 18) + 17] {
        let expected = words(length, 1);
        let buffer = CudaBuffer::upload(device, &expected)?;
        assert_eq!(buffer.download()?, expected, "{length}");
        let mut short = vec![0; length + 1];
        assert!(matches!(buffer.read(&mut short), Err(Error::Length { .. })));
    }
    Ok(())
}

fn a_zeroed_buffer_holds_zeros_in_memory_used_before(device: &CudaDevice) -> Result<(), Error> {
    assert!(CudaBuffer::<u32>::zeroed(device, 0)?.download()?.is_empty());
    drop(CudaBuffer::upload(device, &words(5000, 2))?);
    assert_eq!(
        CudaBuffer::<u32>::zeroed(device, 5000)?.download()?,
        vec![0; 5000]
    );
    Ok(())
}

fn the_next_buffer_takes_the_memory_of_a_dropped_one(device: &CudaDevice) -> Result<(), Error> {
    let first = CudaBuffer::upload(device, &words(100_000, 3))?.address();
    let (_, free) = device.memory_bytes();
    let second = CudaBuffer::upload(device, &words(100_000, 4))?;
    assert_eq!(
        (second.address(), device.memory_bytes()),
        (first, (free, 0))
    );
    Ok(())
}

fn trimming_frees_memory_that_nothing_uses(device: &CudaDevice) -> Result<(), Error> {
    let kept = CudaBuffer::upload(device, &words(1000, 5))?;
    drop(CudaBuffer::upload(device, &words(1 << 20, 6))?);
    device.trim();
    assert_eq!(device.memory_bytes().1, 0);
    assert_eq!(kept.download()?, words(1000, 5));
    Ok(())
}

fn a_copy_has_the_elements_of_its_source_as_they_were(device: &CudaDevice) -> Result<(), Error> {
    let mut source = CudaBuffer::upload(device, &words(70_001, 15))?;
    let mut copy = CudaBuffer::<u32>::zeroed(device, 70_001)?;
    copy.copy_from(&source)?;
    source.zero()?;
    assert_eq!(copy.download()?, words(70_001, 15));
    assert_eq!(source.download()?, vec![0; 70_001]);
    let short = CudaBuffer::<u32>::zeroed(device, 70_000)?;
    assert!(matches!(copy.copy_from(&short), Err(Error::Length { .. })));
    let elsewhere = CudaBuffer::upload(&device.with_new_stream()?, &words(70_001, 16))?;
    let refused = copy.copy_from(&elsewhere);
    assert!(
        matches!(
            refused,
            Err(Error::Cuda(CudaError::Device {
                argument: "other",
                ..
            }))
        ),
        "{refused:?}"
    );
    Ok(())
}

fn events_measure_the_time_between_them(device: &CudaDevice) -> Result<(), Error> {
    let (start, middle, end) = (device.event()?, device.event()?, device.event()?);
    assert!(matches!(
        end.seconds_since(&start),
        Err(Error::Cuda(CudaError::Driver { .. }))
    ));
    let mut buffer = CudaBuffer::<u32>::zeroed(device, 1 << 20)?;
    start.record()?;
    buffer.zero()?;
    middle.record()?;
    buffer.zero()?;
    end.record()?;
    let whole = end.seconds_since(&start)?;
    let sum = middle.seconds_since(&start)? + end.seconds_since(&middle)?;
    assert!(whole > 0.0);
    approx::assert_abs_diff_eq!(whole, sum, epsilon = 1e-5);
    Ok(())
}

fn a_graph_copies_what_was_recorded_each_time_it_runs(device: &CudaDevice) -> Result<(), Error> {
    let mut buffer = CudaBuffer::upload(device, &words(1000, 7))?;
    let recorded = words(1000, 8);
    let ((), graph) = device.record(|| buffer.write(&recorded))?;
    drop(recorded);
    assert_eq!(buffer.download()?, words(1000, 7), "recording runs nothing");
    for seed in [9, 10] {
        buffer.write(&words(1000, seed))?;
        // SAFETY: the buffer is alive, and read only after the graph.
        unsafe { graph.launch()? };
        assert_eq!(buffer.download()?, words(1000, 8));
    }
    Ok(())
}

fn waiting_while_recording_is_refused_and_harms_nothing(device: &CudaDevice) -> Result<(), Error> {
    let buffer = CudaBuffer::upload(device, &words(10, 11))?;
    let refused = device.record(|| buffer.download()).map(|_| ());
    assert_eq!(refused, Err(CudaError::Capture { call: "read" }.into()));
    assert_eq!(buffer.download()?, words(10, 11));
    Ok(())
}

fn a_buffer_made_while_recording_is_used_by_the_graph(device: &CudaDevice) -> Result<(), Error> {
    let (buffer, graph) = device.record(|| CudaBuffer::upload(device, &words(3000, 12)))?;
    device.trim();
    // SAFETY: the buffer is alive, and read only after the graph.
    unsafe { graph.launch()? };
    assert_eq!(buffer.download()?, words(3000, 12));
    Ok(())
}

fn raw_pointers_are_viewed_with_their_stride(device: &CudaDevice) -> Result<(), Error> {
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
        Err(Error::Cuda(CudaError::Null {
            argument: "pointer"
        }))
    ));
    Ok(())
}

fn a_second_stream_has_its_own_memory_and_can_wait(device: &CudaDevice) -> Result<(), Error> {
    let other = device.with_new_stream()?;
    let first = CudaBuffer::upload(device, &words(100, 13))?;
    let second = CudaBuffer::upload(&other, &words(100, 14))?;
    assert_ne!(first.address(), second.address());
    assert_ne!(device.stream().raw(), other.stream().raw());
    other.stream().wait_for(device.stream())?;
    assert_eq!(second.download()?, words(100, 14));
    Ok(())
}
