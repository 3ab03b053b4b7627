//! Times a case, and its yardstick: a cuBLAS product or a copy.
//!
//! Each case is recorded into a graph once. A *cold* time is that of one replay after the L2 cache was overwritten. The
//! fill, the first event, the graph and the second event are queued at once, so the device does not wait for the CPU
//! in between. *Warm* times are of replays one right after the other. The yardstick is timed with every sample of a
//! case, so both run at the same clocks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use criterion::{Criterion, SamplingMode};
use infonce::cuda::{CudaBuffer, CudaDevice, CudaEngine, CudaEvent, CudaTrace};
use infonce::{DType, Error};

use super::product::Product;
use super::schema::{KernelTime, Measure, Row, Rows, Times, Yardstick};
use super::table;

/// Bytes of each buffer of the copy.
const COPY_BYTES: usize = 512 << 20;
/// Replays for the warm time.
const WARM: usize = 20;

/// The device, the buffers and events that cases are timed with, and the rows so far.
pub struct Rig {
    engine: CudaEngine,
    /// As large as two L2 caches: overwriting it evicts all other data.
    flush: CudaBuffer<u8>,
    /// Target and source of the copy.
    copy: Option<[CudaBuffer<u8>; 2]>,
    product: Option<Result<Product, String>>,
    events: [CudaEvent; 2],
    /// `INFONCE_DIVISOR`.
    divisor: usize,
    rows: Vec<Row>,
}

/// A case on the device, ready to run.
pub struct Prepared {
    /// Launches the case on the stream; owns all memory that the case uses.
    replay: Box<dyn FnMut() -> Result<(), Error>>,
    extra_bytes: usize,
}

impl Prepared {
    /// Calls `work` once to measure the memory that it takes, then records it into a graph. `keeps` owns its inputs and
    /// outputs.
    pub fn new<K: 'static, R: 'static>(
        device: &CudaDevice,
        mut keeps: K,
        work: impl Fn(&mut K) -> Result<R, Error>,
    ) -> Result<Self, Error> {
        device.trim();
        let (before, _) = device.memory_bytes();
        drop(work(&mut keeps)?);
        device.synchronize()?;
        let (used, free) = device.memory_bytes();
        let (results, graph) = device.record(|| work(&mut keeps))?;
        // The graph is dropped before the memory that it uses.
        let owned = (graph, results, keeps);
        Ok(Self {
            replay: Box::new(move || {
                let (graph, ..) = &owned;
                // SAFETY: inputs and outputs are owned with the graph, and nothing else touches them.
                unsafe { graph.launch() }
            }),
            extra_bytes: used + free - before,
        })
    }

    /// A case that `launch` launches; it takes `extra_bytes` of memory beside inputs and outputs.
    pub fn recorded(
        extra_bytes: usize,
        launch: impl FnMut() -> Result<(), Error> + 'static,
    ) -> Self {
        Self {
            replay: Box::new(launch),
            extra_bytes,
        }
    }
}

impl Rig {
    pub fn new(engine: CudaEngine) -> Result<Self, Error> {
        let device = engine.device();
        let cache = device.info().cache_bytes;
        Ok(Self {
            flush: CudaBuffer::zeroed(device, 2 * cache)?,
            copy: None,
            product: None,
            events: [device.event()?, device.event()?],
            divisor: divisor(),
            rows: Vec::new(),
            engine,
        })
    }

    pub fn engine(&self) -> &CudaEngine {
        &self.engine
    }

    pub fn description(&self) -> String {
        self.engine.device().info().to_string()
    }

    /// `rows` divided by `INFONCE_DIVISOR`, at least 2.
    pub fn rows(&self, rows: usize) -> usize {
        (rows / self.divisor).max(2)
    }

    pub fn into_rows(self) -> Vec<Row> {
        self.rows
    }

    /// Prints a row and writes all rows so far to the file `INFONCE_ROWS`, which is complete however the run ends.
    fn finish(&mut self, row: Row) {
        println!("{}", table::line(&row));
        self.rows.push(row);
        if let Some(path) = std::env::var_os("INFONCE_ROWS") {
            let rows = self.rows.clone();
            let text = serde_json::to_string_pretty(&Rows { rows }).expect("rows are plain data");
            // Never half a file, even if the run is ended during the write.
            let path = std::path::PathBuf::from(path);
            let beside = path.with_extension("new");
            let written =
                std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, &path));
            if let Err(error) = written {
                eprintln!("error: INFONCE_ROWS={}: {error}", path.display());
                std::process::exit(1);
            }
        }
    }

    /// Times one case, unless criterion's filter excludes it, and prints its line.
    pub fn time(
        &mut self,
        criterion: &mut Criterion,
        mut row: Row,
        what: Yardstick,
        prepare: impl Fn(&CudaEngine) -> Result<Prepared, Error>,
    ) {
        let name = format!("{} {}", row.wanted, row.shape);
        let (mut prepared, mut cold, mut yardstick) = (None, Vec::new(), Vec::new());
        let mut group = criterion.benchmark_group(format!("{} {}", row.work, row.dtype));
        group.sampling_mode(SamplingMode::Flat);
        // A case that fails leaves a row with the reason; the others still run.
        let ran = catch_unwind(AssertUnwindSafe(|| {
            group.bench_function(name, |bencher| {
                let case = prepared.get_or_insert_with(|| or_panic(prepare(&self.engine)));
                bencher.iter_custom(|iterations| {
                    yardstick.extend(or_panic(self.yardstick(what)));
                    let first = cold.len();
                    cold.extend((0..iterations).map(|_| or_panic(self.cold(case))));
                    Duration::from_secs_f64(cold[first..].iter().sum())
                });
            });
            if let Some(case) = &mut prepared {
                row.extra_bytes = Some(case.extra_bytes);
                row.warm = Times::of(&or_panic(self.warm(case, cold.len().min(WARM))));
            }
        }));
        group.finish();
        if let Err(panic) = ran {
            let words = panic.downcast_ref::<String>().cloned();
            row.reason = Some(words.unwrap_or_else(|| "it failed".to_owned()));
        } else if cold.is_empty() {
            return;
        }
        drop(prepared);
        row.kernels = self.kernels(prepare).unwrap_or_default();
        row.cold = Times::of(&cold);
        row.measure = Times::of(&yardstick).map(|times| Measure {
            what,
            rate: self.yardstick_work(what) / times.median,
            samples: times.samples,
        });
        self.finish(row);
    }

    /// Times a call once, for calls that take seconds.
    pub fn time_once(
        &mut self,
        mut row: Row,
        call: impl FnOnce(&CudaEngine) -> Result<(f64, usize), Error>,
    ) {
        let what = Yardstick::Product;
        let product = self.yardstick(what);
        match call(&self.engine) {
            Ok((seconds, extra_bytes)) => {
                row.cold = Times::of(&[seconds]);
                row.extra_bytes = Some(extra_bytes);
            }
            Err(error) => row.reason = Some(error.to_string()),
        }
        row.measure = product.ok().flatten().map(|seconds| Measure {
            what,
            rate: self.yardstick_work(what) / seconds,
            samples: 1,
        });
        self.finish(row);
    }

    /// The kernels of one more run of a case, with their times.
    fn kernels(
        &self,
        prepare: impl Fn(&CudaEngine) -> Result<Prepared, Error>,
    ) -> Result<Vec<KernelTime>, Error> {
        let trace = CudaTrace::timed()?;
        drop(prepare(&self.engine.traced(&trace))?);
        let kernels = trace.kernels()?.into_iter();
        let times = kernels.map(|traced| KernelTime {
            kernel: traced.kernel.to_owned(),
            seconds: traced.seconds,
        });
        Ok(times.collect())
    }

    /// Seconds of one replay with none of its data in the cache.
    fn cold(&mut self, case: &mut Prepared) -> Result<f64, Error> {
        self.flush.zero()?;
        seconds(&self.events, || (case.replay)())
    }

    /// Seconds of each of `replays` replays, one right after the other.
    fn warm(&self, case: &mut Prepared, replays: usize) -> Result<Vec<f64>, Error> {
        let device = self.engine.device();
        let events: Vec<_> = (0..=replays)
            .map(|_| device.event())
            .collect::<Result<_, _>>()?;
        (case.replay)()?;
        events[0].record()?;
        for event in &events[1..] {
            (case.replay)()?;
            event.record()?;
        }
        events
            .windows(2)
            .map(|pair| pair[1].seconds_since(&pair[0]))
            .collect()
    }

    /// Device seconds of the yardstick; `None` without cuBLAS, whose absence is printed once.
    fn yardstick(&mut self, what: Yardstick) -> Result<Option<f64>, Error> {
        match what {
            Yardstick::Copy => {
                let device = self.engine.device();
                let [to, from] = match &mut self.copy {
                    Some(buffers) => buffers,
                    none => none.insert([
                        CudaBuffer::zeroed(device, COPY_BYTES)?,
                        CudaBuffer::upload(device, &noise(COPY_BYTES))?,
                    ]),
                };
                seconds(&self.events, || to.copy_from(from)).map(Some)
            }
            Yardstick::Product => {
                let product = self.product.get_or_insert_with(|| {
                    let product = Product::new(self.engine.device());
                    if let Err(reason) = &product {
                        println!("no ratio to the library product: {reason}");
                    }
                    product
                });
                match product {
                    Ok(product) => seconds(&self.events, || product.run()).map(Some),
                    Err(_) => Ok(None),
                }
            }
        }
    }

    /// FLOPs or bytes of the yardstick.
    fn yardstick_work(&self, what: Yardstick) -> f64 {
        match what {
            Yardstick::Product => Product::FLOPS,
            Yardstick::Copy => 2.0 * COPY_BYTES as f64,
        }
    }
}

impl Times {
    /// The quartiles of at least one time.
    pub fn of(seconds: &[f64]) -> Option<Self> {
        let mut sorted = seconds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let last = sorted.len().checked_sub(1)?;
            sorted.get((share * last as f64).round() as usize).copied()
        };
        Some(Self {
            median: at(0.5)?,
            low: at(0.25)?,
            high: at(0.75)?,
            samples: sorted.len(),
        })
    }
}

/// A row before it is timed.
pub fn row(
    work: &str,
    wanted: &str,
    shape: String,
    dtype: DType,
    flops: Option<f64>,
    bytes: f64,
) -> Row {
    Row {
        by: format!("infonce {}", infonce::VERSION),
        work: work.to_owned(),
        wanted: wanted.to_owned(),
        shape,
        dtype: dtype.to_string(),
        flops,
        bytes,
        cold: None,
        warm: None,
        measure: None,
        extra_bytes: None,
        error: None,
        reason: None,
        kernels: Vec::new(),
    }
}

pub fn element_bytes(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 4.0,
        DType::F16 | DType::Bf16 => 2.0,
    }
}

/// Device seconds of the work that `work` puts on the stream of the events.
pub fn seconds(
    [start, end]: &[CudaEvent; 2],
    work: impl FnOnce() -> Result<(), Error>,
) -> Result<f64, Error> {
    start.record()?;
    work()?;
    end.record()?;
    end.seconds_since(start)
}

/// Bytes that no memory controller can compress.
fn noise(bytes: usize) -> Vec<u8> {
    let word = |i: u64| (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
    (0..bytes as u64 / 8).flat_map(word).collect()
}

fn divisor() -> usize {
    let Ok(text) = std::env::var("INFONCE_DIVISOR") else {
        return 1;
    };
    match text.parse() {
        Ok(divisor) if divisor > 0 => divisor,
        _ => {
            eprintln!("INFONCE_DIVISOR is {text:?}; it must be a whole number above 0");
            std::process::exit(2);
        }
    }
}

/// The value, or a panic with the error's message. [`Rig::time`] catches the panic, so the other cases still run.
fn or_panic<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}
