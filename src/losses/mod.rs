//! The losses by the names of their papers: each a few lines that build a [`Contrast`](crate::Contrast).

mod clip;

pub use clip::LogScale;
