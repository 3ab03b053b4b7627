//! [`workspace_bytes`]: how much memory a call takes, found by making the call on a device that only counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::pool::{Block, Pool, Source};
use super::{
    Device, DeviceMatrix, DeviceRows, DeviceStatistics, DeviceVector, Hardware, Launch, Matrix,
    Similarity, TensorMap,
};
use crate::contrast::{Contrast, Shape, Work};
use crate::element::DType;
use crate::error::Error;
use crate::gradients::Gradients;
use crate::positives::Positives;
use crate::rows::extent;

/// Hands out addresses without memory.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Source for Counter {
    fn allocate(&self, _: usize) -> Result<u64, Error> {
        Ok((self.0.fetch_add(1, Ordering::Relaxed) + 1) << 40)
    }
    fn release(&self, _: u64) {}
    fn is_exhausted(&self, _: &Error) -> bool {
        false
    }
}

/// The device that only counts: copies and launches do nothing.
struct Plan {
    pool: Arc<Pool<Counter>>,
    hardware: Hardware,
}

impl Device for Plan {
    type Buffer = Block<Counter>;

    fn allocate(&self, bytes: usize) -> Result<Block<Counter>, Error> {
        self.pool.allocate(bytes)
    }
    fn address(buffer: &Block<Counter>) -> u64 {
        buffer.address()
    }
    fn write(&self, _: u64, _: &[u8]) -> Result<(), Error> {
        Ok(())
    }
    fn zero(&self, _: u64, _: usize) -> Result<(), Error> {
        Ok(())
    }
    fn read(&self, _: u64, bytes: &mut [u8]) -> Result<(), Error> {
        bytes.fill(0);
        Ok(())
    }
    fn launch(&self, _: &Launch<'_>) -> Result<(), Error> {
        Ok(())
    }
    fn tensor_map(&self, _: &Matrix, _: u32) -> Result<TensorMap, Error> {
        Ok(bytemuck::Zeroable::zeroed())
    }
    fn hardware(&self) -> Hardware {
        self.hardware
    }
}

/// Bytes of device memory that `work` takes from an empty pool, without inputs and gradients, on the device and with
/// the settings of `similarity`. Positives are by index, and the statistics of a backward are uploaded. The diagonal,
/// and the statistics of a forward, take less. Another offset of positives, or labels, take 4 bytes an anchor more. Ids
/// and biases are not known here: a problem that has them stores weights (`options`).
pub(crate) fn workspace_bytes<D: Device>(
    similarity: &Similarity<'_, D>,
    work: Work,
    contrast: &Contrast,
    shape: Shape,
    dtype: DType,
) -> Result<usize, Error> {
    let plan = Plan {
        pool: Pool::new(Counter::default()),
        hardware: similarity.device.hardware(),
    };
    for (argument, rows) in [("anchors", shape.anchors), ("candidates", shape.candidates)] {
        extent(argument, [rows, shape.dim, shape.dim])?;
    }
    // Rows without gaps, at addresses as the driver gives them.
    let matrix = |rows| DeviceMatrix::new(1 << 30, [rows, shape.dim], dtype);
    let (q, k) = (matrix(shape.anchors), matrix(shape.candidates));
    let index = DeviceVector {
        address: 1 << 30,
        length: shape.anchors,
    };
    let problem = contrast.pose([q, k, q], Positives::Index(index))?;
    let gradients = |dk: bool| Gradients::new(q, dk.then_some(k));
    let similarity = similarity.on(&plan);
    match work {
        Work::Forward => drop(similarity.forward(&problem)?),
        Work::ValueAndGrad { dk } => {
            drop(similarity.value_and_grad(&problem, 1.0, &gradients(dk))?);
        }
        Work::Backward { dk } => {
            let unwritten = |rows| {
                let positive = similarity.floats(rows)?;
                DeviceRows::unwritten(similarity.device, contrast.rule(), positive)
            };
            let columns = contrast.has_columns().then(|| unwritten(shape.candidates));
            let given = DeviceStatistics::given(unwritten(shape.anchors)?, columns.transpose()?);
            drop(similarity.backward(&problem, &given, 1.0, &gradients(dk))?);
        }
    }
    let (used, free) = plan.pool.bytes();
    Ok(used + free)
}
