//! Memory of other libraries as this crate's matrices.

pub mod burn;
