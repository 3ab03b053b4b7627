//! Finds the driver and its devices, or the reason why there are none.

use std::sync::OnceLock;

use cudarc::driver::{result, sys};
use libloading::Library;

use super::driver::check;
#[cfg(doc)]
use crate::error::CudaError;
use crate::error::Error;

/// One CUDA device, as the driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaDeviceInfo {
    /// Index from 0 among the devices that `CUDA_VISIBLE_DEVICES` shows.
    pub ordinal: usize,
    /// The product's name.
    pub name: String,
    /// Major and minor compute capability; the kernels need 8.0.
    pub compute_capability: (u32, u32),
    /// Number of SMs.
    pub sms: u32,
    /// Bytes of device memory.
    pub memory_bytes: usize,
    /// Most bytes of shared memory of a block, granted to kernels that ask for them.
    pub shared_bytes: u32,
    /// Bytes of the L2 cache.
    pub cache_bytes: usize,
    /// The newest CUDA release that the driver serves, as (13, 0).
    pub driver: (u32, u32),
}

impl CudaDeviceInfo {
    /// Checks that the kernels run on the device.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the compute capability is below 8.0.
    pub fn check_supported(&self) -> Result<(), Error> {
        let (major, minor) = self.compute_capability;
        if major >= 8 {
            return Ok(());
        }
        Err(unavailable(format!(
            "device {} ({}) has compute capability {major}.{minor}, and the kernels need 8.0 \
             (Ampere) or newer",
            self.ordinal, self.name
        )))
    }

    /// Whether a launch may start before the preceding launch has ended. The kernels must wait by themselves: those of
    /// the sm_90a image do, and devices of 9.0 run no other image; PTX of compute_80, which newer devices run, lacks
    /// the instruction. The driver must record programmatic edges into graphs: it does since CUDA 12.3
    /// (cuGraphAddDependencies_v2), and one release more leaves a margin.
    pub(super) fn can_overlap(&self) -> bool {
        self.compute_capability == (9, 0) && self.driver >= (12, 4)
    }
}

impl std::fmt::Display for CudaDeviceInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}, compute capability {}.{}, {} SMs, {} GiB, driver for CUDA {}.{}",
            self.name,
            self.compute_capability.0,
            self.compute_capability.1,
            self.sms,
            self.memory_bytes >> 30,
            self.driver.0,
            self.driver.1,
        )
    }
}

/// The devices of this machine, at least one. Creates no context and takes no device memory.
///
/// # Errors
/// [`Error::Unavailable`] when there is no driver, one that is too old, or no device;
/// [`CudaError::Driver`] when the driver fails.
pub fn probe() -> Result<Vec<CudaDeviceInfo>, Error> {
    library()?;
    match result::init() {
        Err(result::DriverError(
            code @ (sys::CUresult::CUDA_ERROR_NO_DEVICE
            | sys::CUresult::CUDA_ERROR_STUB_LIBRARY
            | sys::CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
            | sys::CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE
            | sys::CUresult::CUDA_ERROR_SYSTEM_NOT_READY),
        )) => {
            return Err(unavailable(format!(
                "the CUDA driver finds no device that it can use ({code:?}); nvidia-smi says more"
            )));
        }
        result => check("cuInit", result)?,
    }
    let mut version = 0;
    // SAFETY: the pointer is to a live local of the right type.
    let result = unsafe { sys::cuDriverGetVersion(&mut version) };
    check("cuDriverGetVersion", result.result())?;
    // 1000·major + 10·minor
    let driver = (version as u32 / 1000, version as u32 % 1000 / 10);
    let count = check("cuDeviceGetCount", result::device::get_count())?;
    if count == 0 {
        let reason = "the CUDA driver shows no device; CUDA_VISIBLE_DEVICES may hide them";
        return Err(unavailable(reason.into()));
    }
    let ordinals = 0..count;
    ordinals.map(|ordinal| describe(ordinal, driver)).collect()
}

fn describe(ordinal: i32, driver: (u32, u32)) -> Result<CudaDeviceInfo, Error> {
    use sys::CUdevice_attribute as Attribute;
    let device = check("cuDeviceGet", result::device::get(ordinal))?;
    let attribute = |attribute| {
        // SAFETY: `device` comes from cuDeviceGet.
        let value = unsafe { result::device::get_attribute(device, attribute) };
        check("cuDeviceGetAttribute", value).map(|value| value.max(0) as u32)
    };
    // SAFETY: `device` comes from cuDeviceGet.
    let memory = unsafe { result::device::total_mem(device) };
    Ok(CudaDeviceInfo {
        ordinal: ordinal.max(0) as usize,
        name: check("cuDeviceGetName", result::device::get_name(device))?,
        compute_capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        sms: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        memory_bytes: check("cuDeviceTotalMem", memory)?,
        shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        cache_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize,
        driver,
    })
}

/// Names of the driver's library, in the order in which the bindings try them.
#[cfg(unix)]
const LIBRARIES: [&str; 2] = ["libcuda.so", "libcuda.so.1"];
#[cfg(not(unix))]
const LIBRARIES: [&str; 1] = ["nvcuda.dll"];

/// Every function of the driver that this crate calls, itself or through the bindings. The bindings panic when one is
/// missing, so all are looked up before the first call.
const FUNCTIONS: [&str; 43] = [
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuInit",
    "cuLaunchKernelEx",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadDataEx",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamIsCapturing",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuTensorMapEncodeTiled",
    "cuThreadExchangeStreamCaptureMode",
];

/// The driver's library, which stays loaded.
pub(super) fn library() -> Result<&'static Library, Error> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| open(&LIBRARIES, &FUNCTIONS));
    let reason = |reason: &String| unavailable(reason.clone());
    library.as_ref().map_err(reason)
}

/// Whether the driver has a function that is not in [`FUNCTIONS`].
pub(super) fn has(function: &str) -> bool {
    library().is_ok_and(|library| holds(library, function))
}

fn holds(library: &Library, function: &str) -> bool {
    // SAFETY: the symbol is looked up, not called.
    unsafe { library.get::<*const ()>(function.as_bytes()) }.is_ok()
}

fn open(names: &[&str], functions: &[&str]) -> Result<Library, String> {
    let mut reasons = Vec::new();
    for name in names {
        // SAFETY: loading runs the library's initialisers; the driver's are meant to be run by any
        // process that links it.
        let library = match unsafe { Library::new(*name) } {
            Ok(library) => library,
            Err(error) => {
                // The source of the error is the loader's own message, which names the file.
                let words = std::error::Error::source(&error).map(ToString::to_string);
                reasons.push(words.unwrap_or_else(|| format!("{name}: {error}")));
                continue;
            }
        };
        return match functions.iter().find(|name| !holds(&library, name)) {
            None => Ok(library),
            Some(function) => Err(format!(
                "the CUDA driver {name} has no {function}; one for CUDA 12 or newer is needed"
            )),
        };
    }
    Err(format!(
        "there is no CUDA driver here ({}); it comes with NVIDIA's display driver",
        reasons.join("; ")
    ))
}

pub(super) fn unavailable(reason: String) -> Error {
    Error::Unavailable {
        engine: "cuda",
        reason,
    }
}

/// A made-up card.
#[cfg(test)]
pub(super) fn of_capability(compute_capability: (u32, u32), driver: (u32, u32)) -> CudaDeviceInfo {
    CudaDeviceInfo {
        ordinal: 0,
        name: "Some card".into(),
        compute_capability,
        sms: 40,
        memory_bytes: 16 << 30,
        shared_bytes: 64 << 10,
        cache_bytes: 4 << 20,
        driver,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_driver_gets_an_error_that_says_so() {
        let reason = open(&["libno-such-driver.so"], &FUNCTIONS).unwrap_err();
        assert!(
            reason.starts_with("there is no CUDA driver here (libno-such-driver.so"),
            "{reason}"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_driver_without_a_function_is_too_old() {
        let reason = open(&["libc.so.6"], &["malloc", "cuInit"]).unwrap_err();
        assert!(reason.contains("libc.so.6 has no cuInit"), "{reason}");
        assert!(open(&["libc.so.6"], &["malloc"]).is_ok());
    }

    /// Functions that `has` looks up before they are called.
    const LATER: [&str; 2] = ["cuEventElapsedTime_v2", "cuFuncGetParamInfo"];

    /// The driver's functions that the Rust sources of a folder call.
    fn named(folder: &std::path::Path, names: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                named(&path, names);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let is_other = |c: char| c != '_' && !c.is_ascii_alphanumeric();
                let calls = text.split("sys::").skip(1);
                let called = calls.filter_map(|rest| rest.split(is_other).next());
                names.extend(
                    called
                        .filter(|name| name.starts_with("cu"))
                        .map(str::to_owned),
                );
            }
        }
    }

    #[test]
    fn every_function_that_is_called_is_looked_for() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut names = Vec::new();
        named(&root.join("src"), &mut names);
        assert!(names.len() > 4, "{names:?}");
        for name in names {
            let mut known = FUNCTIONS.iter().chain(&LATER);
            assert!(
                known.any(|known| *known == name),
                "{name} is not looked for"
            );
        }
    }

    #[test]
    fn probing_gives_devices_or_a_reason() {
        match probe() {
            Ok(devices) => assert!(devices.iter().all(|device| device.sms > 0)),
            Err(Error::Unavailable { engine, reason }) => {
                assert_eq!(engine, "cuda");
                assert!(reason.contains("driver"), "{reason}");
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn launches_overlap_where_image_and_driver_can() {
        let on = |capability, driver| of_capability(capability, driver).can_overlap();
        assert!(on((9, 0), (12, 4)) && on((9, 0), (13, 0)));
        assert!(!on((9, 0), (12, 3)), "graphs may not record it");
        // They run code of compute_80, which does not wait.
        assert!(!on((8, 9), (13, 0)) && !on((10, 0), (13, 0)) && !on((12, 0), (13, 0)));
    }

    #[test]
    fn a_device_older_than_the_kernels_is_refused() {
        let supported = |capability| of_capability(capability, (13, 0)).check_supported();
        let message = supported((7, 5)).unwrap_err().to_string();
        let expected = "(Some card) has compute capability 7.5";
        assert!(message.contains(expected), "{message}");
        assert_eq!(supported((8, 0)), Ok(()));
    }
}
