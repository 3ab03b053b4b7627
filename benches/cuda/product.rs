//! The yardstick of matrix work: cuBLAS, C = A·Bᵀ, 8192³, bf16 with f32 accumulation, random elements.

use std::ffi::c_void;

use cudarc::cublas::{result, sys};
use half::bf16;
use infonce::cuda::{CudaBuffer, CudaDevice};
use infonce::{CudaError, Error};

use super::random::uniform;

const SIZE: usize = 8192;

pub struct Product {
    handle: sys::cublasHandle_t,
    a: CudaBuffer<bf16>,
    b: CudaBuffer<bf16>,
    c: CudaBuffer<bf16>,
}

impl Product {
    pub const FLOPS: f64 = 2.0 * (SIZE as f64) * (SIZE as f64) * (SIZE as f64);

    /// On the stream of `device`; without cuBLAS the reason why not.
    pub fn new(device: &CudaDevice) -> Result<Self, String> {
        // SAFETY: loading runs the library's initialisers, which any process that links it runs.
        if !unsafe { sys::is_culib_present() } {
            return Err("the library cublas is not found; LD_LIBRARY_PATH may lead to it".into());
        }
        let buffers = [1, 2].map(|seed| CudaBuffer::upload(device, &uniform(SIZE * SIZE, seed)));
        let [a, b] = buffers.map(|buffer| buffer.map_err(|error| error.to_string()));
        let c = CudaBuffer::zeroed(device, SIZE * SIZE).map_err(|error| error.to_string());
        let (a, b, c) = (a?, b?, c?);
        // The allocations above have made the device's context current on this thread.
        let handle = result::create_handle().map_err(|error| format!("{error:?}"))?;
        let product = Self { handle, a, b, c };
        // SAFETY: the stream lives as long as its device handle, which the buffers keep.
        let set = unsafe { result::set_stream(handle, device.stream().raw().cast()) };
        set.map_err(|error| format!("{error:?}"))?;
        Ok(product)
    }

    /// Puts one product on the stream.
    pub fn run(&mut self) -> Result<(), Error> {
        const BF16: sys::cudaDataType = sys::cudaDataType::CUDA_R_16BF;
        let size = SIZE as i32;
        let (one, zero) = (1.0f32, 0.0f32);
        let pointer = |buffer: &CudaBuffer<bf16>| buffer.address() as *mut c_void;
        // SAFETY: three matrices of size × size bf16 elements on the device; α and β are read from host memory
        // during the call.
        let result = unsafe {
            result::gemm_ex(
                self.handle,
                sys::cublasOperation_t::CUBLAS_OP_T,
                sys::cublasOperation_t::CUBLAS_OP_N,
                size,
                size,
                size,
                (&raw const one).cast(),
                pointer(&self.a),
                BF16,
                size,
                pointer(&self.b),
                BF16,
                size,
                (&raw const zero).cast(),
                pointer(&self.c),
                BF16,
                size,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        result.map_err(|error| {
            Error::Cuda(CudaError::Driver {
                call: "cublasGemmEx",
                code: error.0 as u32,
                name: format!("{:?}", error.0),
            })
        })
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once. An error here invalidates no measurement.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}
