//! Copies, fills and kernel launches on a CUDA device: [`Device`] for [`CudaDevice`].

use std::ffi::c_void;

use cudarc::driver::{result, sys};

use super::device::{CudaDevice, DeviceBlock};
use super::driver::check;
use super::module::{Limits, cannot_run};
use crate::error::{CudaError, Error};
use crate::launch::kernels::SLAB_BYTES;
use crate::launch::params::{DTYPE_BF16, DTYPE_F16, DTYPE_F32};
use crate::launch::{Device, Hardware, Launch, Matrix, TensorMap};

/// The largest grid: blocks along x, y and z.
const GRID: [u32; 3] = [(1 << 31) - 1, 65_535, 65_535];

impl Device for CudaDevice {
    type Buffer = DeviceBlock;

    fn allocate(&self, bytes: usize) -> Result<DeviceBlock, Error> {
        self.pool.allocate(bytes)
    }

    fn address(buffer: &DeviceBlock) -> u64 {
        buffer.address()
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        self.staging.write(address, bytes)
    }

    fn zero(&self, address: u64, bytes: usize) -> Result<(), Error> {
        if bytes == 0 {
            return Ok(());
        }
        let stream = self.stream().bind()?;
        // SAFETY: `address` names as many bytes of device memory, by the trait's contract.
        let result = unsafe { result::memset_d8_async(address, 0, bytes, stream) };
        check("cuMemsetD8Async", result)
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        let stream = self.stream().bind()?;
        if self.stream().is_capturing()? {
            return Err(CudaError::Capture { call: "read" }.into());
        }
        // SAFETY: `address` names as many bytes of device memory, by the trait's contract, and the
        // host's bytes are borrowed until the copy has ended, below.
        let sent = unsafe { result::memcpy_dtoh_async(bytes, address, stream) };
        let ended = self.stream().synchronize();
        check("cuMemcpyDtoHAsync", sent)?;
        ended
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), Error> {
        let kernel = launch.kernel;
        let function = self.shared.modules.function(kernel)?;
        allowed(launch, &function.limits).map_err(|reason| cannot_run(kernel.name, reason))?;
        let stream = self.stream().bind()?;
        function.grant_shared(kernel.shared_bytes)?;
        // The driver reads the one parameter and the attribute during the call, and writes to neither.
        let mut params = [launch.params.as_ptr().cast::<c_void>().cast_mut()];
        let mut early = early_start();
        let mut start = |is_timed: bool| {
            let [grid_x, grid_y, grid_z] = launch.grid;
            let config = sys::CUlaunchConfig {
                gridDimX: grid_x,
                gridDimY: grid_y,
                gridDimZ: grid_z,
                blockDimX: kernel.threads,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: kernel.shared_bytes,
                hStream: stream,
                attrs: &mut early,
                numAttrs: u32::from(self.overlaps && !is_timed),
            };
            // SAFETY: the function's module is loaded, the launch is within the function's limits, its
            // one parameter has the size that the driver reads, and there are as many attributes.
            let result = unsafe {
                sys::cuLaunchKernelEx(
                    &config,
                    function.raw,
                    params.as_mut_ptr(),
                    std::ptr::null_mut(),
                )
            };
            check("cuLaunchKernelEx", result.result())
        };
        match &self.trace {
            Some(trace) => trace.note(function.name, self.stream(), start),
            None => start(false),
        }
    }

    fn tensor_map(&self, matrix: &Matrix, box_rows: u32) -> Result<TensorMap, Error> {
        self.stream().bind()?;
        let bytes = matrix.element_bytes() as u32;
        let elements = [matrix.row_bytes / bytes, matrix.rows].map(u64::from);
        let size = [SLAB_BYTES as u32 / bytes, box_rows];
        let every_element = [1, 1];
        use sys::CUtensorMapDataType as Type;
        let dtype = match matrix.dtype {
            DTYPE_F32 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
            DTYPE_F16 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            DTYPE_BF16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            // CUDA has no tensor-map type for e4m3. A byte serves: elements outside the matrix are 0 in both.
            _ => Type::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        };
        let mut map = TensorMap { words: [0; 16] };
        // SAFETY: a map is 128 bytes at a multiple of 64; sizes and box are arrays of the two
        // dimensions, the stride is one value, and the driver checks them.
        let result = unsafe {
            sys::cuTensorMapEncodeTiled(
                (&raw mut map).cast(),
                dtype,
                2,
                matrix.data as *mut c_void,
                elements.as_ptr(),
                &matrix.stride,
                size.as_ptr(),
                every_element.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        check("cuTensorMapEncodeTiled", result.result())?;
        Ok(map)
    }

    fn hardware(&self) -> Hardware {
        let info = self.info();
        Hardware {
            warpgroups: info.compute_capability == (9, 0),
            sms: info.sms,
            cache_bytes: info.cache_bytes,
        }
    }
}

impl CudaDevice {
    /// Copies `bytes` bytes, at least one, within the device's memory, in stream order. Both ranges are allocated, and
    /// they do not overlap.
    pub(super) fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), Error> {
        let stream = self.stream().bind()?;
        // SAFETY: both addresses name as many bytes of device memory, by this function's contract.
        let result = unsafe { result::memcpy_dtod_async(to, from, bytes, stream) };
        check("cuMemcpyDtoDAsync", result)
    }
}

/// The attribute of programmatic dependent launch: blocks may start before the preceding launch in the stream has
/// ended. Copies, fills and events before or after it keep their order.
fn early_start() -> sys::CUlaunchAttribute {
    use sys::CUlaunchAttributeID_enum as Attribute;
    let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
    value.programmaticStreamSerializationAllowed = 1;
    sys::CUlaunchAttribute {
        id: Attribute::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value,
    }
}

/// Checks a launch against the kernel's limits; the error says which of them it breaks.
fn allowed(launch: &Launch<'_>, limits: &Limits) -> Result<(), String> {
    for (axis, (&blocks, &most)) in ["x", "y", "z"].iter().zip(launch.grid.iter().zip(&GRID)) {
        if blocks == 0 || blocks > most {
            return Err(format!(
                "{blocks} blocks along {axis}; there can be 1 to {most}"
            ));
        }
    }
    let (given, all) = (launch.kernel.shared_bytes, limits.shared_bytes);
    let most = all.saturating_sub(limits.static_shared_bytes);
    if given > most {
        return Err(format!(
            "{given} bytes of shared memory a block; the device has {most}"
        ));
    }
    let given = launch.params.len();
    match limits.params_bytes {
        Some(expected) if expected != given => {
            Err(format!("{given} bytes of parameters; it takes {expected}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::kernels::Kernel;

    const LIMITS: Limits = Limits {
        shared_bytes: 232_448,
        static_shared_bytes: 1024,
        params_bytes: Some(8),
    };
    const LAUNCH: Launch<'_> = Launch {
        kernel: &Kernel::planted("k", 256, 231_424),
        grid: [1, 1, 1],
        params: &[0; 8],
    };

    #[test]
    fn a_launch_at_the_limits_is_allowed() {
        let mut launch = LAUNCH;
        launch.grid = GRID;
        assert_eq!(allowed(&launch, &LIMITS), Ok(()));
        let mut limits = LIMITS;
        (launch.params, limits.params_bytes) = (&[], None);
        assert_eq!(allowed(&launch, &limits), Ok(()));
    }

    #[test]
    fn a_launch_past_a_limit_is_refused_with_both_numbers() {
        let refused = |change: fn(&mut Launch<'_>)| {
            let mut launch = LAUNCH;
            change(&mut launch);
            allowed(&launch, &LIMITS).unwrap_err()
        };
        let no_blocks = "0 blocks along y; there can be 1 to 65535";
        assert_eq!(refused(|it| it.grid[1] = 0), no_blocks);
        let blocks = "65536 blocks along z; there can be 1 to 65535";
        assert_eq!(refused(|it| it.grid[2] = 65_536), blocks);
        let shared = "231425 bytes of shared memory a block; the device has 231424";
        const LARGER: &Kernel = &Kernel::planted("k", 256, 231_425);
        assert_eq!(refused(|it| it.kernel = LARGER), shared);
        let params = "4 bytes of parameters; it takes 8";
        assert_eq!(refused(|it| it.params = &[0; 4]), params);
    }
}
