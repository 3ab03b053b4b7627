//! The table of cases that every engine is judged on: losses × shapes × kinds of data.

use std::fmt;

use rand::{Rng, RngExt};

use crate::contrast::{Contrast, Reduction};
use crate::error::Error;
use crate::losses::{Loss, RowContext, RowRule, TABLE};

/// How positives are given, where the contrast takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// Candidate i; at least as many candidates as anchors.
    Diagonal,
    /// Candidate i plus an offset other than 0, so that anchors at one end have none.
    Offset,
    /// A random candidate.
    Index,
    /// A random candidate; every third anchor has none.
    IndexWithGaps,
    /// As [`IndexWithGaps`](Self::IndexWithGaps), by labels, which several candidates may share.
    Labels,
}

/// A contrast of the table: a loss, or the layout of one loss with the rule of another.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// The loss whose layout it has.
    pub loss: &'static Loss,
    /// The loss whose rule it has, if another.
    pub rule_of: Option<&'static Loss>,
    /// How positives are given.
    pub given: Given,
}

impl Kind {
    /// The contrast at a scale.
    ///
    /// # Errors
    /// Those of the loss's constructor.
    pub fn contrast(&self, scale: f32) -> Result<Contrast, Error> {
        let contrast = (self.loss.at)(1.0 / scale)?;
        match self.rule_of {
            Some(other) => contrast.with_rule((other.at)(1.0 / scale)?.rule()),
            None => Ok(contrast),
        }
    }

    /// The contrast at scale 1, for properties that do not depend on the scale.
    fn sample(&self) -> Contrast {
        self.contrast(1.0).expect("1 is a scale of every loss")
    }

    /// Whether it is the loss of this key with its own rule, and positives so given.
    pub fn is(&self, key: &str, given: Given) -> bool {
        self.loss.key == key && self.rule_of.is_none() && self.given == given
    }

    /// Whether the contrast takes positives, so that [`given`](Self::given) matters.
    pub fn takes_positives(&self) -> bool {
        self.sample().takes_positives()
    }

    /// The N and M nearest to these that the contrast is defined on.
    fn fit(&self, anchors: usize, candidates: usize) -> (usize, usize) {
        let contrast = self.sample();
        if contrast.is_shared() {
            let rows = anchors.next_multiple_of(2);
            (rows, rows)
        } else if contrast.has_columns() {
            (anchors, anchors)
        } else if self.takes_positives() && self.given == Given::Diagonal {
            (anchors, candidates.max(anchors))
        } else {
            (anchors, candidates)
        }
    }

    /// Whether rows of this 1 − p₊ have gradients that f16 holds only with a loss scale.
    fn gradients_vanish(&self, one_minus_positive: f64) -> bool {
        let rule = self.sample().rule();
        let row = RowContext::new(rule, 1.0, 1, std::iter::empty());
        rule.values(one_minus_positive.ln(), 0.0, &row).positive < 1e-3
    }

    /// Whether it is defined on such inputs, and its exponentials stay in the range of f32.
    fn allows(&self, scale: f32, data: Data) -> bool {
        let shares = self.takes_positives() && self.given == Given::Index;
        let is_large = scale >= 35.0 || matches!(data, Data::Unnormalised | Data::FarBelow(200.0));
        (shares || data != Data::SharedPositives)
            && !(is_large && self.sample().rule().grows_exponentially())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.loss.name)?;
        if self.takes_positives() {
            f.write_str(match self.given {
                Given::Diagonal => " diagonal",
                Given::Offset => " offset",
                Given::Index => " index",
                Given::IndexWithGaps => " index with gaps",
                Given::Labels => " labels",
            })?;
        }
        match self.rule_of {
            Some(other) => write!(f, " by the rule of {}", other.name),
            None => Ok(()),
        }
    }
}

/// How many cases a kind has.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Extent {
    /// All shapes, all of [`HARD`], and random shapes.
    All,
    /// The first [`RAGGED`] shapes, and all of [`HARD`].
    Hard,
    /// [`FEW`]: every way of computing once.
    Few,
}

/// The losses that get every shape: one for each layout and direction.
const THOROUGH: [&str; 4] = ["nt_xent", "info_nce", "moco", "clip"];

/// All kinds; each rule other than the softmax also on the one-way layouts.
fn kinds() -> Vec<(Kind, Extent)> {
    let plain = |loss, given| Kind {
        loss,
        rule_of: None,
        given,
    };
    let (thorough, others): (Vec<&'static Loss>, Vec<&'static Loss>) =
        TABLE.iter().partition(|loss| THOROUGH.contains(&loss.key));
    let thorough = thorough
        .into_iter()
        .map(|loss| plain(loss, Given::Diagonal));
    let mut kinds = Vec::new();
    for kind in thorough.clone() {
        kinds.push((kind, Extent::All));
        if kind.takes_positives() {
            kinds.push((plain(kind.loss, Given::Index), Extent::All));
            for given in [Given::IndexWithGaps, Given::Labels, Given::Offset] {
                kinds.push((plain(kind.loss, given), Extent::Few));
            }
        }
    }
    for loss in others {
        let kind = plain(loss, Given::Diagonal);
        // The same description as another's is the same code.
        let is_same = |(other, _): &(Kind, _)| {
            other.rule_of.is_none() && other.sample().description() == kind.sample().description()
        };
        let extent = if kinds.iter().any(is_same) {
            Extent::Few
        } else {
            Extent::Hard
        };
        kinds.push((kind, extent));
        if kind.sample().rule() != RowRule::SOFTMAX {
            for other in thorough.clone().filter(|kind| kind.sample().is_one_way()) {
                let rule_of = Some(loss);
                kinds.push((Kind { rule_of, ..other }, Extent::Few));
            }
        }
    }
    kinds
}

/// What the embeddings are like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Data {
    /// Random unit vectors.
    Unit,
    /// Random directions, norms from 0.01 to 30.
    Unnormalised,
    /// Every logit, the positive's too, near minus this: zero padding would dominate the sums.
    FarBelow(f64),
    /// All rows are the same vector, so the gradient is a sum that cancels.
    Collinear,
    /// All rows are copies of three vectors: some negatives equal the positive.
    Duplicates,
    /// The positive dominates: 1 − p₊ is near this in every row.
    Confident(f64),
    /// Random unit vectors; all anchors share two positives, the first and the last candidate.
    SharedPositives,
    /// Random unit vectors, one element of which is replaced by this: NaN or an infinity.
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

/// One case: with a seed it determines the inputs.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// The contrast without its scale.
    pub kind: Kind,
    /// N.
    pub anchors: usize,
    /// M.
    pub candidates: usize,
    /// D.
    pub dim: usize,
    /// s = 1/τ.
    pub scale: f32,
    /// What the embeddings are like.
    pub data: Data,
    /// The reduction.
    pub reduction: Reduction,
    /// The upstream gradient ∂L/∂loss.
    pub upstream: f32,
    /// Chooses types where a test does not run all: it differs between neighbours in the table, and between the
    /// losses of one shape and kind of data.
    pub number: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}x{}x{}, s={}, {}",
            self.kind, self.anchors, self.candidates, self.dim, self.scale, self.data
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

/// N, M, D: single rows and columns, ragged tails, every range of D, several blocks of rows and of columns.
const SHAPES: [(usize, usize, usize); 18] = [
    (1, 7, 3),
    (5, 7, 3),
    (47, 49, 1000),
    (97, 131, 17),
    (97, 131, 64),
    (1, 1, 1),
    (1, 1, 64),
    (2, 2, 2),
    (5, 1, 17),
    (5, 1, 272),
    (5, 7, 4096),
    (16, 48, 128),
    (131, 97, 64),
    (257, 515, 200),
    (130, 259, 512),
    (1000, 1, 16),
    (1, 1000, 33),
    (33, 700, 128),
];

/// N, M, D, s and the embeddings.
type Row = (usize, usize, usize, f32, Data);

/// Cases that are hard numerically: scales, norms and kinds of data.
const HARD: [Row; 26] = [
    // τ = 0.01, 0.005 and 10; then scales near the bounds where engines change their method.
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
    // The same with D above 256.
    (65, 300, 272, 44.0, Data::Unit),
    (65, 300, 272, 1.0, Data::Unnormalised),
    (65, 300, 272, 20.0, Data::FarBelow(40.0)),
    (65, 300, 272, USUAL_SCALE, Data::Collinear),
    (65, 300, 272, 20.0, Data::Confident(1e-4)),
    (65, 300, 272, USUAL_SCALE, Data::SharedPositives),
];

/// The number of [`SHAPES`] that kinds of [`Extent::Hard`] get.
const RAGGED: usize = 5;

/// A small problem, a larger one, one with D above 256, and one with confident rows.
const FEW: [Row; 4] = [
    (33, 20, 64, USUAL_SCALE, Data::Unit),
    (97, 131, 64, USUAL_SCALE, Data::Unit),
    (65, 100, 272, USUAL_SCALE, Data::Unit),
    (33, 65, 128, 20.0, Data::Confident(1e-4)),
];

/// N, M, D and s of cases with an element that is not finite: below and above the bound where an engine may
/// change its method.
const NOT_FINITE: [(usize, usize, usize, f32); 5] = [
    (61, 75, 19, 10.0),
    (61, 75, 272, 10.0),
    (2, 2, 1, 10.0),
    (61, 75, 19, 100.0),
    (61, 75, 272, 100.0),
];

/// The table. Some of its shapes are drawn from `rng`; reductions and upstream gradients alternate.
pub fn table(rng: &mut impl Rng) -> Vec<Case> {
    const VALUES: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let usual = |(n, m, d)| (n, m, d, USUAL_SCALE, Data::Unit);
    let mut cases: Vec<Case> = Vec::new();
    for (number, (kind, extent)) in kinds().into_iter().enumerate() {
        let mut rows: Vec<Row> = match extent {
            Extent::All => {
                let fresh = [400, 60].map(|most| {
                    let mut size = || rng.random_range(1..=most);
                    usual((size(), size(), size()))
                });
                let shapes = SHAPES.map(usual).into_iter();
                shapes.chain(HARD).chain(fresh).collect()
            }
            Extent::Hard => {
                let ragged = SHAPES.map(usual).into_iter().take(RAGGED);
                ragged.chain(HARD).collect()
            }
            Extent::Few => FEW.into(),
        };
        let (values, shapes) = match extent {
            Extent::All => (&VALUES[..], &NOT_FINITE[..]),
            // One value, with each D.
            Extent::Hard | Extent::Few => (&VALUES[number % 3..][..1], &NOT_FINITE[..2]),
        };
        for &value in values {
            let row = |&(n, m, d, scale)| (n, m, d, scale, Data::NotFinite(value));
            rows.extend(shapes.iter().map(row));
        }
        let first = cases.len();
        for (row, (n, m, dim, scale, data)) in rows.into_iter().enumerate() {
            let (anchors, candidates) = kind.fit(n, m);
            let inputs = (anchors, candidates, dim, scale, data);
            let same = |x: &Case| (x.anchors, x.candidates, x.dim, x.scale, x.data) == inputs;
            if !kind.allows(scale, data) || cases[first..].iter().any(same) {
                continue;
            }
            let place = cases.len();
            cases.push(Case {
                kind,
                anchors,
                candidates,
                dim,
                scale,
                data,
                reduction: [Reduction::Mean, Reduction::Sum][place % 2],
                upstream: match data {
                    Data::Confident(rest) if kind.gradients_vanish(rest) => 1024.0,
                    _ if kind.sample().rule().grows_exponentially() => 1.0 / 1024.0,
                    _ => [1.0, -2.5, 0.3][place % 3],
                },
                number: number + row,
            });
        }
    }
    cases
}
