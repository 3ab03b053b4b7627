//! The element types of embeddings: f32, f16 and bf16.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Run-time name of an [`Element`] type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: the upper half of an f32.
    Bf16,
}

impl DType {
    /// The smallest positive normal number: 2⁻¹²⁶ of f32 and bf16, 2⁻¹⁴ of f16.
    pub const fn min_positive(self) -> f32 {
        match self {
            DType::F32 | DType::Bf16 => f32::MIN_POSITIVE,
            DType::F16 => f16::MIN_POSITIVE.to_f32_const(),
        }
    }

    /// Rounds to f32, then to this type, as engines round an output.
    #[inline]
    pub(crate) fn round(self, x: f64) -> f64 {
        let x = x as f32;
        match self {
            DType::F32 => x.into(),
            DType::F16 => f16::from_f32(x).to_f64(),
            DType::Bf16 => bf16::from_f32(x).to_f64(),
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
        })
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// An element type of inputs and gradients: `f32`, [`half::f16`] or [`half::bf16`]. Sealed.
///
/// Accumulation, loss and statistics are f32 for every type.
pub trait Element:
    sealed::Sealed + bytemuck::Pod + Send + Sync + PartialEq + std::fmt::Debug + 'static
{
    /// The type's run-time name.
    const DTYPE: DType;
    /// Distance from 1 to the next larger number: 2⁻²³ (f32), 2⁻¹⁰ (f16) or 2⁻⁷ (bf16).
    const EPSILON: f32;
    /// Widens; exact.
    fn to_f32(self) -> f32;
    /// Rounds to nearest, ties to even.
    fn from_f32(value: f32) -> Self;
    /// Widens a slice; both have the same length.
    fn widen(from: &[Self], to: &mut [f32]);
    /// Rounds a slice; both have the same length.
    fn narrow(from: &[f32], to: &mut [Self]);
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    const EPSILON: f32 = f32::EPSILON;
    fn to_f32(self) -> f32 {
        self
    }
    fn from_f32(value: f32) -> Self {
        value
    }
    fn widen(from: &[Self], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
    fn narrow(from: &[f32], to: &mut [Self]) {
        to.copy_from_slice(from);
    }
}

macro_rules! half_element {
    ($type:ty, $dtype:expr, $widen:expr) => {
        impl Element for $type {
            const DTYPE: DType = $dtype;
            const EPSILON: f32 = <$type>::EPSILON.to_f32_const();
            fn to_f32(self) -> f32 {
                <$type>::to_f32(self)
            }
            fn from_f32(value: f32) -> Self {
                <$type>::from_f32(value)
            }
            fn widen(from: &[Self], to: &mut [f32]) {
                $widen(from, to);
            }
            fn narrow(from: &[f32], to: &mut [Self]) {
                to.convert_from_f32_slice(from);
            }
        }
    };
}
half_element!(f16, DType::F16, HalfFloatSliceExt::convert_to_f32_slice);
half_element!(bf16, DType::Bf16, |from: &[bf16], to: &mut [f32]| {
    // A bf16 is the upper half of an f32. This plain loop vectorises.
    for (to, from) in to.iter_mut().zip(from) {
        *to = f32::from_bits(u32::from(from.to_bits()) << 16);
    }
});
