//! Tensors of other libraries as this crate's matrices, without a copy.

pub mod burn;
