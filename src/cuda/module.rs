//! Loads images into a context and finds the kernels in them, each once.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex};

use cudarc::driver::sys::{self, CUfunction_attribute as Attribute};
use cudarc::driver::{CudaContext, result};

use super::driver::{RelaxedCapture, check, lock};
use super::image::{self, Image};
use super::probe::{self, CudaDeviceInfo};
use crate::error::Error;
use crate::launch::kernels::Kernel;

/// The modules and functions of one context.
#[derive(Debug)]
pub(super) struct Modules {
    functions: Mutex<HashMap<&'static str, Arc<Function>>>,
    /// By source file.
    loaded: Mutex<HashMap<&'static str, Module>>,
    info: CudaDeviceInfo,
    context: Arc<CudaContext>,
}

#[derive(Debug, Clone, Copy)]
struct Module(sys::CUmodule);

// SAFETY: a handle, valid on every thread where its context is current; `Modules` makes it current.
unsafe impl Send for Module {}

/// A kernel, ready to be launched.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: &'static str,
    pub(super) raw: sys::CUfunction,
    pub(super) limits: Limits,
    /// Bytes of dynamic shared memory that the driver has granted.
    granted: Mutex<u32>,
}

// SAFETY: a handle, as above.
unsafe impl Send for Function {}
// SAFETY: a handle, as above; `granted` has its lock.
unsafe impl Sync for Function {}

/// The limits of a launch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Static and dynamic shared memory together.
    pub(super) shared_bytes: u32,
    pub(super) static_shared_bytes: u32,
    /// Size of the parameter structure; `None` where the driver cannot tell it.
    pub(super) params_bytes: Option<usize>,
}

impl Modules {
    pub(super) fn new(context: Arc<CudaContext>, info: CudaDeviceInfo) -> Self {
        Self {
            functions: Mutex::default(),
            loaded: Mutex::default(),
            info,
            context,
        }
    }

    /// The function of a kernel. Its image is loaded the first time.
    pub(super) fn function(&self, kernel: &Kernel) -> Result<Arc<Function>, Error> {
        let name = kernel.name;
        if let Some(function) = lock(&self.functions).get(name) {
            return Ok(Arc::clone(function));
        }
        let image = image::holding(kernel)
            .ok_or_else(|| cannot_run(name, "this build has no kernel of that name".into()))?;
        check("cuCtxSetCurrent", self.context.bind_to_thread())?;
        let _relaxed = RelaxedCapture::new()?;
        let function = Arc::new(self.find(name, self.load(name, image)?)?);
        // Another thread may have found the same function at the same time.
        let mut functions = lock(&self.functions);
        Ok(Arc::clone(functions.entry(name).or_insert(function)))
    }

    fn load(&self, kernel: &str, image: &'static Image) -> Result<Module, Error> {
        let mut loaded = lock(&self.loaded);
        if let Some(module) = loaded.get(image.source) {
            return Ok(*module);
        }
        let mut log = vec![0u8; 4096];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        // The driver takes the size by value, in place of a pointer.
        let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
        let mut module = std::ptr::null_mut();
        // SAFETY: the image is a whole fatbin, which says its own size; options and values are of
        // one length and name a buffer of the size given, all of which outlive the call.
        let result = unsafe {
            sys::cuModuleLoadDataEx(
                &mut module,
                image.bytes.0.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        if let Err(error) = check("cuModuleLoadDataEx", result.result()) {
            let words = log.split(|&byte| byte == 0).next().unwrap_or_default();
            let words = String::from_utf8_lossy(words);
            let (source, device) = (image.source, &self.info);
            let reason = format!("{source} does not load on {device}: {error}. {words}");
            return Err(cannot_run(kernel, reason.trim_end().to_owned()));
        }
        loaded.insert(image.source, Module(module));
        Ok(Module(module))
    }

    fn find(&self, kernel: &'static str, module: Module) -> Result<Function, Error> {
        let name = CString::new(kernel).map_err(|error| cannot_run(kernel, error.to_string()))?;
        // SAFETY: the module was loaded into this context and is unloaded with `self`.
        let raw = match unsafe { result::module::get_function(module.0, name) } {
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NOT_FOUND => {
                let (major, minor) = self.info.compute_capability;
                let reason = format!("it was not built for compute capability {major}.{minor}");
                return Err(cannot_run(kernel, reason));
            }
            other => check("cuModuleGetFunction", other)?,
        };
        let attribute = |attribute| {
            // SAFETY: `raw` was found just now.
            let value = unsafe { result::function::get_function_attribute(raw, attribute) };
            check("cuFuncGetAttribute", value).map(|value| value.max(0) as u32)
        };
        let static_shared_bytes = attribute(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
        let granted = attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)?;
        Ok(Function {
            name: kernel,
            raw,
            limits: Limits {
                shared_bytes: self.info.shared_bytes,
                static_shared_bytes,
                params_bytes: params_bytes(raw)?,
            },
            granted: Mutex::new(granted),
        })
    }
}

/// The size of the first and only parameter.
fn params_bytes(function: sys::CUfunction) -> Result<Option<usize>, Error> {
    // Since CUDA 12.4.
    if !probe::has("cuFuncGetParamInfo") {
        return Ok(None);
    }
    let (mut offset, mut bytes) = (0, 0);
    // SAFETY: the function was found just now; the pointers are to live locals of the right type.
    let result = unsafe { sys::cuFuncGetParamInfo(function, 0, &mut offset, &mut bytes) };
    check("cuFuncGetParamInfo", result.result())?;
    Ok(Some(bytes))
}

impl Function {
    /// Lets launches have `bytes` of dynamic shared memory; the driver's default limit is 48 KiB.
    pub(super) fn grant_shared(&self, bytes: u32) -> Result<(), Error> {
        let mut granted = lock(&self.granted);
        if bytes <= *granted {
            return Ok(());
        }
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function lives as long as its module, and that as long as `Modules`.
        let result =
            unsafe { result::function::set_function_attribute(self.raw, attribute, bytes as i32) };
        check("cuFuncSetAttribute", result)?;
        *granted = bytes;
        Ok(())
    }
}

pub(super) fn cannot_run(kernel: &str, reason: String) -> Error {
    Error::Kernel {
        kernel: kernel.to_owned(),
        reason,
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        self.context.record_err(self.context.bind_to_thread());
        for module in lock(&self.loaded).values() {
            // SAFETY: loaded once and unloaded once; nothing that launches its functions is left, for every handle,
            // buffer and graph keeps `self`, and handles wait for their streams before they let go of it.
            let unloaded = unsafe { result::module::unload(module.0) };
            self.context.record_err(unloaded);
        }
    }
}
