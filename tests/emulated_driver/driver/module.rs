//! Modules and their kernels. An image is checked to be one; what runs is the kernel of the same name
//! that `kernels/host` has compiled from the same source.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::Arc;

use cudarc::driver::sys::{CUfunction_attribute_enum as Attribute, CUresult};

use super::context::{SHARED_MOST, SHARED_USUAL};
use super::runner::{self, Description};
use super::stream::Work;
use super::{Answer, Driver, Handle, report, status, value};

/// The first word of an image for several architectures.
const FATBIN: u32 = 0xBA55_ED50;
/// Blocks along x, y and z.
const GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];

#[derive(Default)]
pub(super) struct Modules {
    loaded: Vec<Handle>,
    functions: HashMap<Handle, Function>,
    launches: u64,
}

struct Function {
    name: Arc<CString>,
    module: Handle,
    description: Description,
    /// Dynamic shared memory that a launch may have.
    granted: u32,
}

impl Modules {
    pub(super) fn is_loaded(&self, module: Handle) -> bool {
        self.loaded.contains(&module)
    }

    pub(super) fn count(&self) -> usize {
        self.loaded.len()
    }

    /// Another number for each launch.
    pub(super) fn next_launch(&mut self) -> u64 {
        self.launches += 1;
        self.launches
    }
}

/// How a kernel is launched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
}

impl Driver {
    pub(super) fn load(&mut self, image: &[u8; 4]) -> Answer<Handle> {
        self.enter()?;
        self.refuse_while_capturing()?;
        if u32::from_le_bytes(*image) != FATBIN {
            return Err(CUresult::CUDA_ERROR_INVALID_IMAGE);
        }
        let handle = self.new_handle();
        self.contents.modules.loaded.push(handle);
        Ok(handle)
    }

    /// Whether the driver waits for launched kernels before it unloads them is not documented.
    pub(super) fn unload(&mut self, module: Handle) -> Answer {
        self.enter()?;
        self.refuse_while_capturing()?;
        let modules = &mut self.contents.modules;
        if !modules.is_loaded(module) {
            return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
        modules.loaded.retain(|&loaded| loaded != module);
        modules
            .functions
            .retain(|_, function| function.module != module);
        Ok(())
    }

    pub(super) fn find(&mut self, module: Handle, name: &CStr) -> Answer<Handle> {
        self.enter()?;
        if !self.contents.modules.is_loaded(module) {
            return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
        let description = runner::describe(name).ok_or(CUresult::CUDA_ERROR_NOT_FOUND)?;
        // The same kernel of a module is the same function.
        let functions = &self.contents.modules.functions;
        let known = functions
            .iter()
            .find(|(_, function)| function.module == module && function.name.as_c_str() == name);
        if let Some((&handle, _)) = known {
            return Ok(handle);
        }
        let handle = self.new_handle();
        let function = Function {
            name: Arc::new(name.to_owned()),
            module,
            description,
            granted: SHARED_USUAL,
        };
        self.contents.modules.functions.insert(handle, function);
        Ok(handle)
    }

    fn function(&mut self, function: Handle) -> Answer<&mut Function> {
        self.enter()?;
        let function = self.contents.modules.functions.get_mut(&function);
        function.ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
    }

    fn function_attribute(&mut self, function: Handle, attribute: c_int) -> Answer<c_int> {
        const THREADS: c_int = Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK as c_int;
        const STATIC_SHARED: c_int = Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES as c_int;
        const DYNAMIC_SHARED: c_int =
            Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as c_int;
        let function = self.function(function)?;
        match attribute {
            THREADS => Ok(function.description.threads as c_int),
            STATIC_SHARED => Ok(0),
            DYNAMIC_SHARED => Ok(function.granted as c_int),
            _ => {
                report(&format!("a kernel's attribute {attribute} is not emulated"));
                Err(CUresult::CUDA_ERROR_INVALID_VALUE)
            }
        }
    }

    pub(super) fn grant_shared(
        &mut self,
        function: Handle,
        attribute: c_int,
        bytes: c_int,
    ) -> Answer {
        let function = self.function(function)?;
        let dynamic = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as c_int;
        match u32::try_from(bytes) {
            Ok(bytes) if attribute == dynamic && bytes <= SHARED_MOST => {
                function.granted = bytes;
                Ok(())
            }
            _ => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
        }
    }

    /// How many bytes a launch reads as the kernel's one parameter.
    pub(super) fn params_bytes(&mut self, function: Handle) -> Answer<usize> {
        Ok(self.function(function)?.description.params_bytes)
    }

    /// Puts a launch on a stream; the parameters are the caller's again when this returns.
    pub(super) fn launch(
        &mut self,
        function: Handle,
        shape: Shape,
        params: &[u8],
        stream: Handle,
    ) -> Answer {
        let Function {
            name,
            module,
            description,
            granted,
        } = self.function(function)?;
        let Shape {
            grid,
            block: [threads, 1, 1],
            shared_bytes,
        } = shape
        else {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        };
        let in_grid = grid
            .iter()
            .zip(&GRID)
            .all(|(&blocks, most)| (1..=*most).contains(&blocks));
        let in_block = (1..=description.threads).contains(&threads);
        if !in_grid || !in_block || shared_bytes > *granted {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let work = Work::Launch {
            kernel: Arc::clone(name),
            module: *module,
            grid,
            threads,
            shared_bytes,
            params: params.into(),
        };
        self.put(stream, work)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut Handle,
    image: *const c_void,
    options: u32,
    option_names: *const c_int,
    option_values: *const *mut c_void,
) -> CUresult {
    // The options that the caller gives are about words of a compiler that is not there.
    if image.is_null() || (options > 0 && (option_names.is_null() || option_values.is_null())) {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    // SAFETY: an image is longer than its first word; the caller's promise.
    unsafe { value(module, |driver| driver.load(&*image.cast())) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: Handle) -> CUresult {
    status(|driver| driver.unload(module))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut Handle,
    module: Handle,
    name: *const c_char,
) -> CUresult {
    if name.is_null() {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    // SAFETY: the caller's promise: a text that ends with a zero.
    unsafe { value(function, |driver| driver.find(module, CStr::from_ptr(name))) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(
    number: *mut c_int,
    attribute: c_int,
    function: Handle,
) -> CUresult {
    // SAFETY: the caller's promise.
    unsafe {
        value(number, |driver| {
            driver.function_attribute(function, attribute)
        })
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(
    function: Handle,
    attribute: c_int,
    number: c_int,
) -> CUresult {
    status(|driver| driver.grant_shared(function, attribute, number))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetParamInfo(
    function: Handle,
    index: usize,
    offset: *mut usize,
    bytes: *mut usize,
) -> CUresult {
    if index > 0 || offset.is_null() {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    // SAFETY: the caller's promise.
    unsafe {
        offset.write(0);
        value(bytes, |driver| driver.params_bytes(function))
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: Handle,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared_bytes: u32,
    stream: Handle,
    params: *const *const u8,
    extra: *const *const c_void,
) -> CUresult {
    let shape = Shape {
        grid: [grid_x, grid_y, grid_z],
        block: [block_x, block_y, block_z],
        shared_bytes,
    };
    status(|driver| {
        let bytes = driver.params_bytes(function)?;
        if params.is_null() || !extra.is_null() {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        // SAFETY: the caller's promise: the address of each parameter, of which a kernel here has
        // one, of this size.
        let params = unsafe { std::slice::from_raw_parts(params.read(), bytes) };
        driver.launch(function, shape, params, stream)
    })
}
