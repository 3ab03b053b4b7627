//! Tensor maps, in the emulator's form: `TensorMapWords` of kernels/emulator/tensor_map.h.

use std::ffi::{c_int, c_void};

use cudarc::driver::sys::{CUresult, CUtensorMapDataType as Type};

/// `TENSOR_MAP` of kernels/emulator/tensor_map.h.
const MARK: u64 = 0x696e_666f_6e63_6570;

#[repr(C)]
struct TensorMapWords {
    mark: u64,
    data: u64,
    stride: u64,
    rows: u32,
    row_bytes: u32,
    box_rows: u32,
    element_bytes: u32,
    unused: [u64; 11],
}

const _: () = assert!(size_of::<TensorMapWords>() == 128);

/// `CU_TENSOR_MAP_SWIZZLE_128B`; the emulator has no other, and no interleaving.
const SWIZZLE_128: c_int = 3;
const BOX_BYTES: u32 = 128;

fn element_bytes(dtype: c_int) -> Option<u32> {
    [
        (Type::CU_TENSOR_MAP_DATA_TYPE_UINT8, 1),
        (Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2),
        (Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2),
        (Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4),
    ]
    .into_iter()
    .find_map(|(known, bytes)| (known as c_int == dtype).then_some(bytes))
}

/// Checks what the driver's documentation demands of a matrix whose boxes are swizzled by 128 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuTensorMapEncodeTiled(
    map: *mut c_void,
    dtype: c_int,
    rank: u32,
    address: *mut c_void,
    sizes: *const u64,
    strides: *const u64,
    box_sizes: *const u32,
    steps: *const u32,
    interleave: c_int,
    swizzle: c_int,
    _l2_promotion: c_int,
    fill: c_int,
) -> CUresult {
    const REFUSED: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
    let Some(bytes) = element_bytes(dtype) else {
        return REFUSED;
    };
    let none = sizes.is_null() || strides.is_null() || box_sizes.is_null() || steps.is_null();
    if map.is_null() || none || rank != 2 || [interleave, swizzle, fill] != [0, SWIZZLE_128, 0] {
        return REFUSED;
    }
    // SAFETY: the caller's promise: as many sizes as there are dimensions, one stride fewer.
    let (sizes, stride, box_sizes, steps) = unsafe {
        (
            [*sizes, *sizes.add(1)],
            *strides,
            [*box_sizes, *box_sizes.add(1)],
            [*steps, *steps.add(1)],
        )
    };
    let aligned = (map as usize).is_multiple_of(64)
        && (address as usize).is_multiple_of(16)
        && stride.is_multiple_of(16);
    let sized = sizes.iter().all(|&size| (1..=1 << 32).contains(&size)) && stride < 1 << 40;
    let boxed = box_sizes[0] * bytes == BOX_BYTES && (1..=256).contains(&box_sizes[1]);
    let row_bytes = sizes[0] * u64::from(bytes);
    let (Ok(rows), Ok(row_bytes)) = (u32::try_from(sizes[1]), u32::try_from(row_bytes)) else {
        return REFUSED;
    };
    if !(aligned && sized && boxed && steps == [1, 1] && stride >= u64::from(row_bytes)) {
        return REFUSED;
    }
    let words = TensorMapWords {
        mark: MARK,
        data: address as u64,
        stride,
        rows,
        row_bytes,
        box_rows: box_sizes[1],
        element_bytes: bytes,
        unused: [0; 11],
    };
    // SAFETY: a map is 128 bytes, by the caller's promise, at a multiple of 64, as checked above.
    unsafe { map.cast::<TensorMapWords>().write(words) };
    CUresult::CUDA_SUCCESS
}
