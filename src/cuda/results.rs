//! Results of a call, on the device.

use super::device::CudaDevice;
use super::region::CudaRegion;
use super::view::CudaVector;
use crate::device::{DeviceStatistics, Floats, Results};
use crate::error::Error;
use crate::statistics::Statistics;

/// What a call left on the device: the loss, ∂loss/∂s and the statistics of every row. The memory
/// stays until this is dropped, and a graph that recorded the call writes there each time it runs.
pub struct CudaResults {
    results: Results<CudaDevice>,
    device: CudaDevice,
}

/// One number on the device.
pub struct CudaNumber {
    /// Two numbers; this is the second.
    numbers: Floats<CudaDevice>,
    device: CudaDevice,
}

impl CudaResults {
    pub(super) fn new(results: Results<CudaDevice>, device: &CudaDevice) -> Self {
        Self {
            results,
            device: device.clone(),
        }
    }

    pub(super) fn on(
        &self,
        argument: &'static str,
        device: &CudaDevice,
    ) -> Result<&Results<CudaDevice>, Error> {
        self.loss().region().require_home(argument, device.home())?;
        Ok(&self.results)
    }

    /// The reduced loss, one number, not multiplied by the upstream gradient.
    pub fn loss(&self) -> CudaVector<'_> {
        part(&self.results.loss_and_dscale, 0..1, &self.device)
    }

    /// Upstream × ∂loss/∂s, one number; 0 after a call without gradients.
    pub fn dscale(&self) -> CudaVector<'_> {
        part(&self.results.loss_and_dscale, 1..2, &self.device)
    }

    /// Loss, upstream × ∂loss/∂s and the statistics, once everything before on the stream has ended.
    ///
    /// # Errors
    /// [`Error::Driver`] when a kernel or copy has failed; [`Error::Capture`] while the stream is
    /// recorded.
    pub fn read(&self) -> Result<([f32; 2], Statistics), Error> {
        self.results.read(&self.device)
    }

    /// Loss and upstream × ∂loss/∂s alone.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_loss(&self) -> Result<[f32; 2], Error> {
        let numbers = self.results.loss_and_dscale.read(&self.device)?;
        Ok([numbers[0], numbers[1]])
    }

    /// lse⁻ and z₊ of every row, N numbers each.
    pub fn rows(&self) -> [CudaVector<'_>; 2] {
        self.statistics(&self.results.rows)
    }

    /// lse⁻ and z₊ of every column, M numbers each, where columns have a loss.
    pub fn columns(&self) -> Option<[CudaVector<'_>; 2]> {
        let columns = self.results.columns.as_ref();
        columns.map(|columns| self.statistics(columns))
    }

    fn statistics<'a>(
        &'a self,
        statistics: &'a DeviceStatistics<CudaDevice>,
    ) -> [CudaVector<'a>; 2] {
        [&statistics.negatives_lse, &statistics.positive]
            .map(|floats| part(floats, 0..floats.len(), &self.device))
    }
}

impl CudaNumber {
    pub(super) fn second_of(numbers: Floats<CudaDevice>, device: &CudaDevice) -> Self {
        Self {
            numbers,
            device: device.clone(),
        }
    }

    /// Where the number stands.
    pub fn vector(&self) -> CudaVector<'_> {
        part(&self.numbers, 1..2, &self.device)
    }

    /// The number, once everything before on the stream has ended.
    ///
    /// # Errors
    /// As [`CudaResults::read`].
    pub fn read(&self) -> Result<f32, Error> {
        Ok(self.numbers.read(&self.device)?[1])
    }
}

/// Numbers of `floats` as a vector.
fn part<'a>(
    floats: &'a Floats<CudaDevice>,
    numbers: std::ops::Range<usize>,
    device: &CudaDevice,
) -> CudaVector<'a> {
    let address = floats.address() + 4 * numbers.start as u64;
    CudaVector::at(CudaRegion::vector(address, numbers.len(), device.home()))
}

impl std::fmt::Debug for CudaResults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaResults").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for CudaNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaNumber").finish_non_exhaustive()
    }
}
