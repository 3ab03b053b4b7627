//! Memory of other libraries, viewed as this crate's matrices.

pub mod burn;
