//! Results of a call, on the device.

use super::device::CudaDevice;
use super::region::CudaRegion;
use super::statistics::CudaStatistics;
use super::view::CudaVector;
use crate::device::{DeviceTopK, Floats, Results};
use crate::error::Error;
use crate::memory::{Evaluation, Read, TopK};

/// What a call left on the device: the loss, ∂loss/∂s and the statistics of every row. The memory stays until this
/// is dropped; a graph that recorded the call writes there each time it runs.
///
/// Reading waits for all work on the stream before; while the stream is recorded it is refused with
/// [`CudaError::Capture`](crate::CudaError::Capture).
pub struct CudaResults {
    loss_and_dscale: Floats<CudaDevice>,
    statistics: CudaStatistics,
}

/// One number on the device.
pub struct CudaNumber {
    /// Two numbers; this is the second.
    pub(super) numbers: Floats<CudaDevice>,
    pub(super) device: CudaDevice,
}

/// The k best candidates of every query, on the device.
pub struct CudaTopK {
    pub(super) best: DeviceTopK<CudaDevice>,
    pub(super) device: CudaDevice,
}

impl CudaResults {
    pub(super) fn new(results: Results<CudaDevice>, device: &CudaDevice) -> Self {
        Self {
            loss_and_dscale: results.loss_and_dscale,
            statistics: CudaStatistics::new(results.statistics, device),
        }
    }

    /// Two numbers: the loss, not multiplied by the upstream gradient, and upstream × ∂loss/∂s, 0 after a forward.
    pub fn loss_and_dscale(&self) -> CudaVector<'_> {
        part(&self.loss_and_dscale, 0..2, &self.statistics.device)
    }

    fn number(&self, which: usize) -> Result<f32, Error> {
        Ok(self.loss_and_dscale.read(&self.statistics.device)?[which])
    }
}

impl Evaluation for CudaResults {
    type Statistics = CudaStatistics;

    fn loss(&self) -> Result<f32, Error> {
        self.number(0)
    }

    fn dscale(&self) -> Result<f32, Error> {
        self.number(1)
    }

    fn statistics(&self) -> &CudaStatistics {
        &self.statistics
    }
}

impl CudaNumber {
    /// Where the number stands.
    pub fn vector(&self) -> CudaVector<'_> {
        part(&self.numbers, 1..2, &self.device)
    }
}

impl Read for CudaNumber {
    type Value = f32;

    fn read(&self) -> Result<f32, Error> {
        Ok(self.numbers.read(&self.device)?[1])
    }
}

impl CudaTopK {
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
}

impl Read for CudaTopK {
    type Value = TopK;

    fn read(&self) -> Result<TopK, Error> {
        self.best.read(&self.device)
    }
}

/// Numbers of 4 bytes as a vector.
pub(super) fn part<'a, T>(
    floats: &'a Floats<CudaDevice>,
    numbers: std::ops::Range<usize>,
    device: &CudaDevice,
) -> CudaVector<'a, T> {
    const { assert!(size_of::<T>() == 4) };
    let address = floats.at(numbers.start);
    let shape = [numbers.len(), 1];
    CudaVector::at(CudaRegion::own::<T>(address, shape, device.home()))
}

macro_rules! opaque {
    ($($name:ident),*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}
opaque!(CudaResults, CudaStatistics, CudaNumber, CudaTopK);
