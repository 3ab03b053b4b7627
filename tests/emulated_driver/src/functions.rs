//! The driver's functions, as C calls them. The functions whose arguments need more checks are in the modules of their
//! subjects.

use std::ffi::c_int;

use cudarc::driver::sys::CUresult;

use super::{Handle, status, value};

/// Defines a C function for each line `function(arguments) = method` of [`super::Driver`]. The function returns the
/// method's status. With `-> type` it has another first argument, the address to which it writes the method's value.
macro_rules! functions {
    ($($name:ident($($argument:ident: $type:ty),*) $(-> $value:ty)? = $method:ident;)*) => {
        $(functions!(@one $name($($argument: $type),*) $(-> $value)? = $method);)*
    };
    (@one $name:ident($($argument:ident: $type:ty),*) = $method:ident) => {
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($argument: $type),*) -> CUresult {
            status(|driver| driver.$method($($argument),*))
        }
    };
    (@one $name:ident($($argument:ident: $type:ty),*) -> $value:ty = $method:ident) => {
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(to: *mut $value, $($argument: $type),*) -> CUresult {
            // SAFETY: the caller's promise.
            unsafe { value(to, |driver| driver.$method($($argument),*)) }
        }
    };
}

functions! {
    cuInit(flags: u32) = initialise;
    cuDriverGetVersion() -> c_int = version;
    cuDeviceGetCount() -> c_int = device_count;
    cuDeviceGet(ordinal: c_int) -> c_int = device;
    cuDeviceGetAttribute(attribute: c_int, device: c_int) -> c_int = device_attribute;
    cuDeviceTotalMem_v2(device: c_int) -> usize = total_memory;

    cuDevicePrimaryCtxRetain(device: c_int) -> Handle = retain;
    cuDevicePrimaryCtxRelease_v2(device: c_int) = release;
    cuCtxGetCurrent() -> Handle = current_context;
    cuCtxSetCurrent(context: Handle) = make_current;
    cuCtxSynchronize() = synchronise_context;

    cuStreamCreate(flags: u32) -> Handle = create_stream;
    cuStreamDestroy_v2(stream: Handle) = destroy_stream;
    cuStreamSynchronize(stream: Handle) = synchronise_stream;
    cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32) = wait_event;

    cuEventCreate(flags: u32) -> Handle = create_event;
    cuEventDestroy_v2(event: Handle) = destroy_event;
    cuEventRecord(event: Handle, stream: Handle) = record_event;
    cuEventSynchronize(event: Handle) = synchronise_event;
    cuEventElapsedTime_v2(start: Handle, end: Handle) -> f32 = elapsed;

    cuGraphInstantiateWithFlags(graph: Handle, flags: u64) -> Handle = instantiate;
    cuGraphLaunch(executable: Handle, stream: Handle) = launch_graph;
    cuGraphDestroy(graph: Handle) = destroy_graph;
    cuGraphExecDestroy(executable: Handle) = destroy_executable;

    cuMemAlloc_v2(bytes: usize) -> u64 = allocate;
    cuMemFree_v2(address: u64) = free;
    cuMemFreeHost(address: usize) = free_host;
    cuMemcpyDtoHAsync_v2(to: *mut u8, from: u64, bytes: usize, stream: Handle) = copy_to_host;
    cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) = copy_within;

    cuModuleUnload(module: Handle) = unload;
    cuFuncGetAttribute(attribute: c_int, function: Handle) -> c_int = function_attribute;
    cuFuncSetAttribute(function: Handle, attribute: c_int, value: c_int) = grant_shared;
}
