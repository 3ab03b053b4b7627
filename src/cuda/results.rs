//! Results of a call in device memory: loss, statistics, the best candidates.

use super::device::CudaDevice;
use super::region::CudaRegion;
use super::view::CudaVector;
use crate::contrast::same_rows;
#[cfg(doc)]
use crate::error::CudaError;
use crate::error::Error;
use crate::launch::{DeviceRows, DeviceStatistics, DeviceTopK, Floats, Results};
use crate::memory::{Evaluation, Read, TopK};
use crate::statistics::Statistics;

/// Results of a call, on the device: the loss, ∂loss/∂s and the statistics of every row. The memory stays until this
/// is dropped. A graph that recorded the call writes there each time it runs.
///
/// Reading waits for the work on the stream so far. While the stream is recorded, reading is refused with
/// [`CudaError::Capture`].
pub struct CudaResults {
    loss_and_dscale: Floats<CudaDevice>,
    statistics: CudaStatistics,
}

/// lse⁻ and z₊ of every row, and of every column where columns have a loss.
/// [`Engine::forward`](crate::Engine::forward) computes them, [`Engine::backward`](crate::Engine::backward) takes them.
pub struct CudaStatistics {
    pub(super) statistics: DeviceStatistics<CudaDevice>,
    pub(super) device: CudaDevice,
}

/// One f32 on the device: the ∂loss/∂s of a [`backward`](crate::Engine::backward), the loss of a
/// [`triplet`](crate::Engine::triplet).
pub struct CudaNumber {
    pub(super) words: Floats<CudaDevice>,
    /// Which word is the value.
    pub(super) word: usize,
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

    /// Two elements: the loss, not multiplied by the upstream gradient, and upstream × ∂loss/∂s, 0 after a forward.
    pub fn loss_and_dscale(&self) -> CudaVector<'_> {
        from_word(0, &self.loss_and_dscale, &self.statistics.device)
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

    fn into_statistics(self) -> CudaStatistics {
        self.statistics
    }
}

impl CudaStatistics {
    /// A copy of statistics on the host.
    ///
    /// # Errors
    /// [`Error::Rows`] when lse⁻ and z₊ of a direction have different lengths, [`Error::Empty`] when they are empty,
    /// [`CudaError::Driver`] when the allocation or the copy fails.
    pub fn upload(device: &CudaDevice, statistics: &Statistics) -> Result<Self, Error> {
        let statistics = DeviceStatistics::upload(device, statistics)?;
        Ok(Self::new(statistics, device))
    }

    /// A copy of lse⁻ and z₊ that lie on the device, of rows, and of columns where they have a loss: for statistics
    /// that another library or process computed. A rule of sets or of two exponents needs more.
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
            let lse = vector(argument, lse)?;
            Ok(DeviceRows::of_one_positive(
                lse,
                vector(argument, positive)?,
            ))
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

    /// The statistics in `launch`'s types; an error unless they belong to `device`.
    pub(super) fn on(
        &self,
        argument: &'static str,
        device: &CudaDevice,
    ) -> Result<&DeviceStatistics<CudaDevice>, Error> {
        self.rows()[0].on(argument, device)?;
        Ok(&self.statistics)
    }

    /// lse⁻ and z₊ of every row, N elements each.
    pub fn rows(&self) -> [CudaVector<'_>; 2] {
        self.vectors(&self.statistics.rows)
    }

    /// lse⁻ and z₊ of every column, M elements each, where columns have a loss.
    pub fn columns(&self) -> Option<[CudaVector<'_>; 2]> {
        let columns = self.statistics.columns.as_ref();
        columns.map(|columns| self.vectors(columns))
    }

    /// The memory of all statistics.
    pub(super) fn regions(&self) -> impl Iterator<Item = CudaRegion> {
        let directions = [
            Some(&self.statistics.rows),
            self.statistics.columns.as_ref(),
        ];
        let planes = directions
            .into_iter()
            .flatten()
            .flat_map(DeviceRows::planes);
        planes.map(|floats| from_word::<f32>(0, floats, &self.device).region())
    }

    fn vectors<'a>(&'a self, rows: &'a DeviceRows<CudaDevice>) -> [CudaVector<'a>; 2] {
        [&rows.negatives_lse, &rows.positive].map(|floats| from_word(0, floats, &self.device))
    }
}

impl Read for CudaStatistics {
    type Value = Statistics;

    fn read(&self) -> Result<Statistics, Error> {
        self.statistics.read(&self.device)
    }
}

impl CudaNumber {
    /// The value as a vector of one element.
    pub fn vector(&self) -> CudaVector<'_> {
        from_word(self.word, &self.words, &self.device)
    }
}

impl Read for CudaNumber {
    type Value = f32;

    fn read(&self) -> Result<f32, Error> {
        Ok(self.words.read(&self.device)?[self.word])
    }
}

impl CudaTopK {
    /// Candidate indices, N × k, best first.
    pub fn indices(&self) -> CudaVector<'_, u32> {
        from_word(0, &self.best.indices, &self.device)
    }

    /// ⟨q_i, k_j⟩ of each, N × k, without the scale s.
    pub fn scores(&self) -> CudaVector<'_> {
        from_word(0, &self.best.scores, &self.device)
    }
}

impl Read for CudaTopK {
    type Value = TopK;

    fn read(&self) -> Result<TopK, Error> {
        self.best.read(&self.device)
    }
}

/// The 4-byte words from word `first` on as a vector.
fn from_word<'a, T>(
    first: usize,
    floats: &'a Floats<CudaDevice>,
    device: &CudaDevice,
) -> CudaVector<'a, T> {
    const { assert!(size_of::<T>() == 4) };
    let shape = [floats.len() - first, 1];
    CudaVector::at(CudaRegion::own::<T>(floats.at(first), shape, device.home()))
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
