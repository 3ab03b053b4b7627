//! The format of a record: one run of the packed runner on one machine, one JSON object a file, in SI units. `null` is a
//! value that is not known; the field beside it says why.

use serde::{Deserialize, Serialize};

/// Version of the format, raised when a reader of the version before would misunderstand a record.
pub const SCHEMA: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub schema: u32,
    /// When the run ended, as 2026-11-25T17:22:19Z.
    pub date: String,
    pub build: Build,
    /// Release of the nvcc that compiled the kernels.
    pub nvcc: Option<String>,
    pub machine: Machine,
    /// In the order they ran.
    pub stages: Vec<Stage>,
    /// The report of `infonce verify --engine cuda`.
    pub verify: Option<Verify>,
    /// The timed cases, of this crate and of others, in the order in which they ran.
    pub rows: Vec<Row>,
}

/// The build that ran; written when it was packed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    pub commit: String,
    /// Whether the working tree had changes that are not in the commit.
    pub modified: bool,
    /// Release of the Rust compiler.
    pub rustc: String,
}

/// Where it ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Name of the CPU.
    #[serde(rename = "processor")]
    pub cpu: String,
    pub cores: usize,
    pub device: Option<Device>,
    /// Why there is no device.
    pub no_device: Option<String>,
    /// Release of the display driver.
    pub driver: Option<String>,
    /// Clocks of the device while it was timed.
    pub clocks: Option<Clocks>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    pub name: String,
    pub compute_capability: (u32, u32),
    #[serde(rename = "multiprocessors")]
    pub sms: u32,
    pub memory_bytes: usize,
    pub cache_bytes: usize,
    /// Newest CUDA release that the driver serves.
    pub cuda: (u32, u32),
}

/// Lowest, median and highest readings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clocks {
    #[serde(rename = "multiprocessors_mhz")]
    pub sm_mhz: [f64; 3],
    pub memory_mhz: [f64; 3],
    pub watts: [f64; 3],
    pub celsius: [f64; 3],
    pub readings: usize,
}

/// One command of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    pub name: String,
    pub command: String,
    pub status: Status,
    /// Why it was ignored, or the last line of a stage that failed.
    pub reason: Option<String>,
    pub seconds: f64,
    pub limit_seconds: f64,
    /// Of a test executable.
    pub tests: Option<Tests>,
    /// The kernels that its tests launched on a CUDA device.
    #[serde(default)]
    pub kernels: Option<Kernels>,
}

/// Names of kernels, each once: launched by tests that passed, and by tests that failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernels {
    pub passed: Vec<String>,
    pub failed: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Passed,
    Failed,
    TimedOut,
    /// It could not run here; `reason` says why. Never a pass.
    Ignored,
}

/// Counts of tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tests {
    pub passed: u64,
    pub failed: u64,
    pub ignored: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    pub lines: Vec<VerifyLine>,
    pub failures: Vec<String>,
    pub cases: usize,
}

/// The error nearest to its bound, for one verb and one pair of types.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyLine {
    pub verb: String,
    pub input: String,
    pub output: String,
    pub checks: usize,
    /// Largest magnitude of the output.
    pub largest: Option<f64>,
    /// Largest difference from float64, and its bound.
    pub error: Option<f64>,
    pub allowed: Option<f64>,
    pub quantity: String,
    pub case: String,
}

/// The file that the benchmarks write: a record's rows without the run around them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    pub rows: Vec<Row>,
}

/// One timed case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Whose code: "infonce" or another library, with its release.
    pub by: String,
    /// Loss or verb: "InfoNCE", "momentum update".
    pub work: String,
    /// The outputs that are computed: "forward", "value and gradient", ….
    pub wanted: String,
    /// "N=32768 M=32768 D=512", or another description of the size.
    pub shape: String,
    pub dtype: String,
    /// Useful FLOPs, as docs/design.md, section 8, counts them.
    pub flops: Option<f64>,
    /// The fewest bytes that must move: each input and output once.
    pub bytes: f64,
    /// Cold: none of its data is in the cache. Warm: right after a run on the same data.
    pub cold: Option<Times>,
    pub warm: Option<Times>,
    /// The yardstick of the ratio, timed in the same run.
    pub measure: Option<Measure>,
    /// Bytes of device memory beside inputs and outputs.
    pub extra_bytes: Option<usize>,
    /// Errors against float64, where they were checked.
    pub error: Option<Errors>,
    /// Why there is no time.
    pub reason: Option<String>,
    /// The kernels of one more run, in the order of their first launches.
    #[serde(default)]
    pub kernels: Vec<KernelTime>,
}

/// Device seconds of all launches of one kernel together; `None` where they were recorded into a graph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelTime {
    pub kernel: String,
    pub seconds: Option<f64>,
}

/// Seconds of single runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Times {
    pub median: f64,
    /// First and third quartile.
    pub low: f64,
    pub high: f64,
    pub samples: usize,
}

/// Relative errors against float64: of the loss, and of the gradients in the L2 norm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Errors {
    pub loss: f64,
    pub dq: f64,
    pub dk: f64,
    /// How many rows of each gradient were checked.
    pub rows: usize,
}

/// The rate of a yardstick, which was timed between the samples of the row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    pub what: Yardstick,
    /// FLOP/s or bytes/s, of the median.
    pub rate: f64,
    pub samples: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Yardstick {
    /// cuBLAS, bf16, 8192 x 8192 x 8192, f32 accumulation, random elements.
    Product,
    /// A copy of 512 MiB from device memory to device memory; read and written bytes count.
    Copy,
}

impl Record {
    /// The name of the card on which the run was.
    pub fn card(&self) -> Option<&str> {
        self.machine.device.as_ref().map(|device| &*device.name)
    }
}

impl Row {
    /// The case: work, outputs, shape and type, but not whose code it is.
    pub fn task(&self) -> String {
        let Self {
            work,
            wanted,
            shape,
            dtype,
            ..
        } = self;
        format!("{work} {wanted} {shape} {dtype}")
    }

    /// Whether it is this crate's.
    pub fn is_ours(&self) -> bool {
        self.by.starts_with("infonce ")
    }

    /// The time that rates and ratios are computed from: cold, or else warm.
    pub fn seconds(&self) -> Option<f64> {
        self.cold.or(self.warm).map(|times| times.median)
    }

    /// Useful FLOP/s.
    pub fn flop_rate(&self) -> Option<f64> {
        Some(self.flops? / self.seconds()?)
    }

    /// Bytes/s, of the fewest bytes that must move.
    pub fn byte_rate(&self) -> Option<f64> {
        Some(self.bytes / self.seconds()?)
    }

    /// Share of the yardstick's rate.
    pub fn ratio(&self) -> Option<f64> {
        let measure = self.measure.as_ref()?;
        let rate = match measure.what {
            Yardstick::Product => self.flop_rate()?,
            Yardstick::Copy => self.byte_rate()?,
        };
        Some(rate / measure.rate)
    }
}
