//! The losses. Each has a file with its paper, formula, constructor and row of [`TABLE`].
//!
//! A loss is data, a [`Description`]: the layout of its inputs, which candidate is an anchor's positive, which
//! candidates it excludes, which directions have a loss, and the [`RowRule`]. Engines compute any description;
//! nothing outside this folder asks which loss it is.

mod captioning;
mod derived;
pub(crate) mod description;
mod dual;
mod formula;
pub(crate) mod rule;
#[cfg(test)]
mod tests;

pub use captioning::captioning;
pub use clip::LogScale;
pub use description::{Description, Directions, Exclusions, Keys, Layout, PositiveRule};
pub(crate) use dual::{Dual, VARIABLES};
pub use rule::{RowContext, RowLogits, RowRule, RowValues, SetForm};

use crate::contrast::Contrast;
use crate::error::Error;

/// A row of [`TABLE`].
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    /// The name on the command line.
    pub key: &'static str,
    /// The name in the paper.
    pub name: &'static str,
    /// Paper and equation.
    pub source: &'static str,
    /// φ, the loss of a row of the logits, as text.
    pub formula: &'static str,
    /// The paper's temperature.
    pub temperature: f32,
    /// The contrast at a temperature, with the paper's other hyper-parameters.
    pub at: fn(f32) -> Result<Contrast, Error>,
}

/// Declares the losses' files and makes [`TABLE`] of their rows.
macro_rules! losses {
    ($($file:ident: $($row:ident),+;)*) => {
        $(mod $file;)*

        /// All losses. The conformance suite, the benchmarks, `docs/losses.md` and the trainer's `--loss` use it.
        pub static TABLE: &[Loss] = &[$($($file::$row),+),*];
    };
}

losses! {
    nt_xent: LOSS;
    info_nce: LOSS;
    moco: LOSS;
    clip: LOSS;
    dcl: LOSS, WEIGHTED;
    rince: LOSS;
    debiased: LOSS;
    additive_margin: LOSS;
    moco_v3: LOSS;
    sup_con: LOSS, INSIDE;
    kcl: LOSS;
    hard_negatives: LOSS;
    mnr: LOSS;
    graph_cl: LOSS;
    sampled_softmax: LOSS;
    declutr: LOSS;
    contra_d: LOSS;
    n_pairs: LOSS;
    inst_disc: LOSS, NOISE;
    pcl: LOSS;
    siglip: LOSS;
    dino: LOSS;
    swav: LOSS;
    relic: LOSS;
    byol: LOSS;
}

impl Loss {
    /// The row of [`TABLE`] with this key.
    pub fn of(key: &str) -> Option<&'static Self> {
        TABLE.iter().find(|loss| loss.key == key)
    }
}
