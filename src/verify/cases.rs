//! The table of hard cases that every engine is judged on: losses × shapes × kinds of data.

use std::fmt;

use rand::{Rng, RngExt};

use crate::contrast::Reduction;

/// A loss of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// NT-Xent; as many candidates as anchors, an even number.
    NtXent,
    /// One-way InfoNCE, anchor i's positive is candidate i; at least as many candidates as anchors.
    InfoNceDiagonal,
    /// One-way InfoNCE with random positives.
    InfoNceIndex,
    /// MoCo.
    Moco,
    /// CLIP; as many candidates as anchors.
    Clip,
}

impl Loss {
    /// All of them.
    pub const ALL: [Loss; 5] = [
        Loss::NtXent,
        Loss::InfoNceDiagonal,
        Loss::InfoNceIndex,
        Loss::Moco,
        Loss::Clip,
    ];

    /// The nearest numbers of anchors and candidates that the loss is defined on.
    fn fit(self, anchors: usize, candidates: usize) -> (usize, usize) {
        match self {
            Loss::NtXent => {
                let rows = anchors.next_multiple_of(2);
                (rows, rows)
            }
            Loss::InfoNceDiagonal => (anchors, candidates.max(anchors)),
            Loss::InfoNceIndex | Loss::Moco => (anchors, candidates),
            Loss::Clip => (anchors, anchors),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Loss::NtXent => "NT-Xent",
            Loss::InfoNceDiagonal => "InfoNCE diagonal",
            Loss::InfoNceIndex => "InfoNCE index",
            Loss::Moco => "MoCo",
            Loss::Clip => "CLIP",
        })
    }
}

/// What the numbers are like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Data {
    /// Random unit vectors.
    Unit,
    /// Random directions, norms from 0.01 to 30.
    Unnormalised,
    /// Every logit, the positive's too, near minus this: padding with zeros would outshine them.
    FarBelow(f64),
    /// All rows are the same vector, so the gradient is a sum that cancels.
    Collinear,
    /// All rows are copies of three vectors: negatives as good as the positive.
    Duplicates,
    /// The positive dominates: 1 − p₊ is near this in every row.
    Confident(f64),
    /// Random unit vectors; all anchors share two positives, the first and the last candidate.
    SharedPositives,
    /// Random unit vectors but for one number, which is this: NaN or an infinity.
    NotFinite(f32),
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Data::Unit => f.write_str("unit"),
            Data::Unnormalised => f.write_str("unnormalised"),
            Data::FarBelow(depth) => write!(f, "all logits near -{depth}"),
            Data::Collinear => f.write_str("collinear"),
            Data::Duplicates => f.write_str("duplicates"),
            Data::Confident(rest) => write!(f, "1-p+ near {rest:e}"),
            Data::SharedPositives => f.write_str("two positives for all"),
            Data::NotFinite(value) => write!(f, "one {value}"),
        }
    }
}

/// One case: enough, with a seed, to draw its inputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// The loss.
    pub loss: Loss,
    /// N.
    pub anchors: usize,
    /// M.
    pub candidates: usize,
    /// D.
    pub dim: usize,
    /// s = 1/τ.
    pub scale: f32,
    /// What the numbers are like.
    pub data: Data,
    /// The reduction.
    pub reduction: Reduction,
    /// dL/dloss.
    pub upstream: f32,
    /// Different for neighbours in the table and for the losses of one shape and kind of data, so that
    /// types that follow it meet all of them.
    pub turn: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}x{}x{}, s={}, {}",
            self.loss, self.anchors, self.candidates, self.dim, self.scale, self.data
        )?;
        if self.reduction == Reduction::Sum {
            f.write_str(", sum")?;
        }
        if self.upstream != 1.0 {
            write!(f, ", upstream {}", self.upstream)?;
        }
        Ok(())
    }
}

/// MoCo's and CLIP's first scale, 1/0.07.
const USUAL_SCALE: f32 = 14.285_714;

/// N, M, D: single rows and columns, ragged tails, every dimension an implementation may cut apart
/// differently, more than one block of rows and of columns.
const SHAPES: [(usize, usize, usize); 18] = [
    (1, 1, 1),
    (1, 1, 64),
    (1, 7, 3),
    (2, 2, 2),
    (5, 1, 17),
    (5, 1, 272),
    (5, 7, 3),
    (5, 7, 4096),
    (16, 48, 128),
    (47, 49, 1000),
    (97, 131, 17),
    (97, 131, 64),
    (131, 97, 64),
    (257, 515, 200),
    (130, 259, 512),
    (1000, 1, 16),
    (1, 1000, 33),
    (33, 700, 128),
];

const HARD: [(usize, usize, usize, f32, Data); 26] = [
    // τ = 0.01, 0.005, 10; and around the bounds where an engine may change its method.
    (97, 131, 64, 100.0, Data::Unit),
    (97, 131, 64, 200.0, Data::Unit),
    (97, 131, 64, 0.1, Data::Unit),
    (65, 100, 40, 35.0, Data::Unit),
    (65, 100, 40, 44.0, Data::Unit),
    (65, 100, 40, 47.0, Data::Unit),
    (97, 131, 64, 1.0, Data::Unnormalised),
    (33, 70, 40, 100.0, Data::Unnormalised),
    (5, 7, 16, 20.0, Data::FarBelow(200.0)),
    (97, 131, 128, 20.0, Data::FarBelow(200.0)),
    (97, 131, 128, 20.0, Data::FarBelow(40.0)),
    (97, 131, 64, USUAL_SCALE, Data::Collinear),
    (97, 131, 64, USUAL_SCALE, Data::Duplicates),
    (5, 7, 64, USUAL_SCALE, Data::Duplicates),
    (33, 65, 128, 20.0, Data::Confident(1e-2)),
    (33, 65, 128, 20.0, Data::Confident(1e-4)),
    (33, 65, 128, 20.0, Data::Confident(1e-8)),
    (97, 203, 130, 100.0, Data::Confident(1e-4)),
    (97, 203, 130, 20.0, Data::Confident(1e-8)),
    (97, 131, 64, USUAL_SCALE, Data::SharedPositives),
    // Longer rows.
    (65, 300, 272, 44.0, Data::Unit),
    (65, 300, 272, 1.0, Data::Unnormalised),
    (65, 300, 272, 20.0, Data::FarBelow(40.0)),
    (65, 300, 272, USUAL_SCALE, Data::Collinear),
    (65, 300, 272, 20.0, Data::Confident(1e-4)),
    (65, 300, 272, USUAL_SCALE, Data::SharedPositives),
];

/// The table. Its last shapes are drawn from `rng`; reductions and upstream gradients alternate.
pub fn table(rng: &mut impl Rng) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (number, loss) in Loss::ALL.into_iter().enumerate() {
        let usual = SHAPES.map(|(n, m, d)| (n, m, d, USUAL_SCALE, Data::Unit));
        let fresh = [400, 60].map(|most| {
            let mut size = || rng.random_range(1..=most);
            (size(), size(), size(), USUAL_SCALE, Data::Unit)
        });
        let rows = usual.into_iter().chain(HARD).chain(fresh);
        for (row, (n, m, dim, scale, data)) in rows.enumerate() {
            if data == Data::SharedPositives && loss != Loss::InfoNceIndex {
                continue;
            }
            let (anchors, candidates) = loss.fit(n, m);
            let place = cases.len();
            let case = Case {
                loss,
                anchors,
                candidates,
                dim,
                scale,
                data,
                reduction: [Reduction::Mean, Reduction::Sum][place % 2],
                upstream: match data {
                    // Confident rows have gradients that f16 holds only behind a loss scale.
                    Data::Confident(rest) if rest < 1e-3 => 1024.0,
                    _ => [1.0, -2.5, 0.3][place % 3],
                },
                turn: number + row,
            };
            let same = |other: &Case| {
                let key = |case: &Case| (case.loss, case.anchors, case.candidates, case.dim);
                key(other) == key(&case) && other.scale == scale && other.data == data
            };
            if !cases.iter().any(same) {
                cases.push(case);
            }
        }
    }
    cases
}

/// Cases whose loss must be NaN.
pub fn not_finite_table() -> Vec<Case> {
    let mut cases = Vec::new();
    for (number, loss) in Loss::ALL.into_iter().enumerate() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            // Below and above the bound where an engine may change its method.
            let shapes = [
                (2, 2, 1, 10.0),
                (61, 75, 19, 10.0),
                (61, 75, 19, 100.0),
                (61, 75, 272, 10.0),
                (61, 75, 272, 100.0),
            ];
            for (row, (n, m, dim, scale)) in shapes.into_iter().enumerate() {
                let (anchors, candidates) = loss.fit(n, m);
                cases.push(Case {
                    loss,
                    anchors,
                    candidates,
                    dim,
                    scale,
                    data: Data::NotFinite(value),
                    reduction: Reduction::Mean,
                    upstream: 1.0,
                    turn: number + row,
                });
            }
        }
    }
    cases
}
