//! Row statistics in device memory.

use super::device::CudaDevice;
use super::results::part;
use super::view::CudaVector;
use crate::contrast::same_rows;
use crate::device::{DeviceRows, DeviceStatistics, Floats};
#[cfg(doc)]
use crate::error::CudaError;
use crate::error::Error;
use crate::memory::Read;
use crate::statistics::Statistics;

/// lse⁻ and z₊ of every row, and of every column where columns have a loss: what
/// [`Engine::forward`](crate::Engine::forward) finds and [`Engine::backward`](crate::Engine::backward) needs.
pub struct CudaStatistics {
    pub(super) statistics: DeviceStatistics<CudaDevice>,
    pub(super) device: CudaDevice,
}

impl CudaStatistics {
    /// A copy of statistics on the host.
    ///
    /// # Errors
    /// [`Error::Rows`] when the parts of a direction have different lengths, [`Error::Empty`] when they have none,
    /// [`CudaError::Driver`] when the memory cannot be had or written.
    pub fn upload(device: &CudaDevice, statistics: &Statistics) -> Result<Self, Error> {
        let statistics = DeviceStatistics::upload(device, statistics)?;
        Ok(Self::new(statistics, device))
    }

    /// A copy of lse⁻ and z₊ of rows, and of columns where they have a loss, that lie on the device: statistics of
    /// another library or process, gathered.
    ///
    /// # Errors
    /// As [`upload`](Self::upload); [`CudaError::Device`] when one is of another handle.
    pub fn copied(
        device: &CudaDevice,
        rows: [CudaVector<'_>; 2],
        columns: Option<[CudaVector<'_>; 2]>,
    ) -> Result<Self, Error> {
        let vector = |argument, given: CudaVector<'_>| -> Result<_, Error> {
            let from = given.on(argument, device)?;
            let floats = Floats::unwritten(device, given.len())?;
            device.copy(floats.address(), from, 4 * given.len())?;
            Ok(floats)
        };
        let copied = |argument, [lse, positive]: [CudaVector<'_>; 2]| -> Result<_, Error> {
            same_rows(argument, positive.len(), lse.len())?;
            Ok(DeviceRows {
                negatives_lse: vector(argument, lse)?,
                positive: vector(argument, positive)?,
            })
        };
        let rows = copied("statistics.rows", rows)?;
        let columns = columns.map(|columns| copied("statistics.columns", columns));
        let statistics = DeviceStatistics::given(rows, columns.transpose()?);
        Ok(Self::new(statistics, device))
    }

    pub(super) fn new(statistics: DeviceStatistics<CudaDevice>, device: &CudaDevice) -> Self {
        Self {
            statistics,
            device: device.clone(),
        }
    }

    /// These, on the handle whose stream orders its work.
    pub(super) fn on(
        &self,
        argument: &'static str,
        device: &CudaDevice,
    ) -> Result<&DeviceStatistics<CudaDevice>, Error> {
        self.rows()[0].on(argument, device)?;
        Ok(&self.statistics)
    }

    /// lse⁻ and z₊ of every row, N numbers each.
    pub fn rows(&self) -> [CudaVector<'_>; 2] {
        self.vectors(&self.statistics.rows)
    }

    /// lse⁻ and z₊ of every column, M numbers each, where columns have a loss.
    pub fn columns(&self) -> Option<[CudaVector<'_>; 2]> {
        let columns = self.statistics.columns.as_ref();
        columns.map(|columns| self.vectors(columns))
    }

    fn vectors<'a>(&'a self, rows: &'a DeviceRows<CudaDevice>) -> [CudaVector<'a>; 2] {
        [&rows.negatives_lse, &rows.positive]
            .map(|floats| part(floats, 0..floats.len(), &self.device))
    }
}

impl Read for CudaStatistics {
    type Value = Statistics;

    fn read(&self) -> Result<Statistics, Error> {
        self.statistics.read(&self.device)
    }
}
