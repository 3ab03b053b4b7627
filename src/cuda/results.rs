//! Results of a call, on the device.

use super::device::CudaDevice;
use super::region::CudaRegion;
use super::view::CudaVector;
use crate::device::{DeviceStatistics, DeviceTopK, Floats, Results};
use crate::engine::TopK;
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

/// The k best candidates of every query, on the device.
pub struct CudaTopK {
    best: DeviceTopK<CudaDevice>,
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

impl CudaTopK {
    pub(super) fn new(best: DeviceTopK<CudaDevice>, device: &CudaDevice) -> Self {
        Self {
            best,
            device: device.clone(),
        }
    }

    /// Candidate indices, N × k, best first.
    pub fn indices(&self) -> CudaVector<'_, u32> {
        let indices = &self.best.indices;
        part(indices, 0..indices.len(), &self.device)
    }

    /// ⟨q_i, k_j⟩ of each, N × k, not scaled.
    pub fn scores(&self) -> CudaVector<'_> {
        let scores = &self.best.scores;
        part(scores, 0..scores.len(), &self.device)
    }

    /// Both, once everything before on the stream has ended.
    ///
    /// # Errors
    /// As [`CudaResults::read`].
    pub fn read(&self) -> Result<TopK, Error> {
        self.best.read(&self.device)
    }
}

/// Numbers of 4 bytes as a vector.
fn part<'a, T>(
    floats: &'a Floats<CudaDevice>,
    numbers: std::ops::Range<usize>,
    device: &CudaDevice,
) -> CudaVector<'a, T> {
    const { assert!(size_of::<T>() == 4) };
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

impl std::fmt::Debug for CudaTopK {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaTopK").finish_non_exhaustive()
    }
}
