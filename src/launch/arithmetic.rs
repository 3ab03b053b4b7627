//! [`Arithmetic`]: the types in which products multiply the elements of a caller's matrices.

use crate::element::DType;

/// Bytes of an element of a caller's matrix.
pub(crate) fn element_bytes(dtype: DType) -> usize {
    match dtype {
        DType::F32 => 4,
        DType::F16 | DType::Bf16 => 2,
    }
}

/// How the elements of a product are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    /// f32 inputs; each product is the sum of three products of tf32.
    F32,
    /// f32 inputs rounded to tf32.
    Tf32,
    F16,
    Bf16,
    /// 8-bit elements with a scale per row: `e4m3` of kernels/ptx/types.h.
    E4m3,
}

impl Arithmetic {
    /// Bytes of an element as it is multiplied.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Arithmetic::F32 | Arithmetic::Tf32 => 4,
            Arithmetic::F16 | Arithmetic::Bf16 => 2,
            Arithmetic::E4m3 => 1,
        }
    }
}

/// The suffix of kernel names, as in `statistics_bf16`.
impl std::fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Arithmetic::F32 => "f32",
            Arithmetic::Tf32 => "tf32",
            Arithmetic::F16 => "f16",
            Arithmetic::Bf16 => "bf16",
            Arithmetic::E4m3 => "e4m3",
        })
    }
}
