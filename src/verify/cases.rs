//! The table of cases that every engine is judged on: losses × shapes × kinds of data.

use std::fmt;

use rand::{Rng, RngExt};

use crate::contrast::{Contrast, Reduction};
use crate::error::Error;
use crate::losses::{
    Description, Keys, Layout, Loss, RowContext, RowLogits, RowRule, SetForm, TABLE,
};

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
    /// As [`IndexWithGaps`](Self::IndexWithGaps), by labels, which several candidates may share. With a rule of sets
    /// classes; some rows have none, some are alone in theirs.
    Labels,
    /// With a rule of sets: up to four random candidates; every fifth anchor has none.
    Lists,
}

/// What a problem has besides a contrast and positives.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Options {
    /// Ids, which several rows share; some rows have none.
    pub ids: bool,
    /// A guard that excludes about this share of the negatives. No logit is within its error of the limit.
    pub guard: Option<f64>,
    /// Biases of the candidates.
    pub bias: bool,
    /// Weights of the rows, some of which are 0.
    pub weights: bool,
    /// The mean over the rows that have a positive.
    pub of_positives: bool,
    /// Label smoothing.
    pub smoothing: f32,
}

impl Options {
    /// None.
    pub const NONE: Self = Self {
        ids: false,
        guard: None,
        bias: false,
        weights: false,
        of_positives: false,
        smoothing: 0.0,
    };
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
    /// What its problems have besides.
    pub options: Options,
}

impl Kind {
    /// The contrast at a scale.
    ///
    /// # Errors
    /// Those of the loss's constructor.
    pub fn contrast(&self, scale: f32) -> Result<Contrast, Error> {
        let contrast = (self.loss.at)(1.0 / scale)?;
        let contrast = match self.rule_of {
            Some(other) => contrast.with_rule((other.at)(1.0 / scale)?.rule())?,
            None => contrast,
        };
        match self.options.smoothing {
            0.0 => Ok(contrast),
            smoothing => contrast.with_label_smoothing(smoothing),
        }
    }

    /// The contrast at scale 1, for properties that do not depend on the scale.
    fn sample(&self) -> Contrast {
        self.contrast(1.0).expect("1 is a scale of every loss")
    }

    /// Whether it is the loss of this key with its own rule and no options, and positives so given.
    pub fn is(&self, key: &str, given: Given) -> bool {
        let is_plain = self.rule_of.is_none() && self.options == Options::NONE;
        self.loss.key == key && is_plain && self.given == given
    }

    /// Whether the contrast takes positives, so that [`given`](Self::given) matters.
    pub fn takes_positives(&self) -> bool {
        self.sample().takes_positives()
    }

    /// Whether anchors and candidates are the same rows.
    pub fn is_shared(&self) -> bool {
        self.sample().is_shared()
    }

    /// The N and M nearest to these that the contrast is defined on.
    fn fit(&self, anchors: usize, candidates: usize) -> (usize, usize) {
        let contrast = self.sample();
        if contrast.layout() == Layout::Shared {
            let rows = anchors.next_multiple_of(2);
            (rows, rows)
        } else if contrast.is_shared() || contrast.has_columns() {
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
        // A set of the one positive, at 0 as the second sum of two exponents is.
        let logits = RowLogits {
            second_lse: 0.0,
            ..RowLogits::new(one_minus_positive.ln(), 0.0)
        };
        let values = rule.values(&logits, &row);
        let of_positive = match rule.takes_sets() {
            true => values.positive - rule.second_sign() * (-values.second).exp(),
            false => values.positive,
        };
        of_positive < 1e-3
    }

    /// Whether it is defined on such inputs, and its exponentials stay in the range of f32.
    fn allows(&self, scale: f32, data: Data) -> bool {
        let shares = self.takes_positives() && self.given == Given::Index;
        let is_large = scale >= 35.0 || matches!(data, Data::Unnormalised | Data::FarBelow(200.0));
        // Softplus of some logits is 0 in f32.
        let is_far = scale >= 200.0 || matches!(data, Data::Unnormalised | Data::FarBelow(200.0));
        let is_nothing = is_far && self.sample().rule().is_pointwise();
        (shares || data != Data::SharedPositives)
            && !is_nothing
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
                Given::Lists => " lists",
            })?;
        }
        if let Some(other) = self.rule_of {
            write!(f, " by the rule of {}", other.name)?;
        }
        let Options {
            ids,
            guard,
            bias,
            weights,
            of_positives,
            smoothing,
        } = self.options;
        let named = [
            (ids, "ids"),
            (guard.is_some(), "guard"),
            (bias, "bias"),
            (weights, "weights"),
            (of_positives, "mean of positives"),
            (smoothing > 0.0, "smoothing"),
        ];
        let names: Vec<&str> = named.iter().filter(|x| x.0).map(|x| x.1).collect();
        match names[..] {
            [] => Ok(()),
            _ => write!(f, " with {}", names.join(", ")),
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
    /// [`OPTIONED`].
    Optioned,
    /// Those of [`HARD`] with confident rows.
    Confident,
}

/// The losses that get every shape: one for each layout and direction.
const THOROUGH: [&str; 4] = ["nt_xent", "info_nce", "moco", "clip"];

/// SupCon's third form, which is no loss of the table.
static DECOUPLED_SETS: Loss = Loss {
    key: "decoupled_sets",
    name: "decoupled sets",
    source: "",
    formula: "lse⁻ − mean_P z",
    temperature: 0.1,
    at: |temperature| {
        Contrast::sup_con(temperature)?.with_rule(RowRule::Sets {
            form: SetForm::Decoupled,
            smoothing: 0.0,
        })
    },
};

/// Sets one option.
type Set = fn(&mut Options);
const IDS: Set = |options| options.ids = true;
const GUARD: Set = |options| options.guard = Some(0.2);
const BIAS: Set = |options| options.bias = true;
const WEIGHTS: Set = |options| options.weights = true;
const COUNTED: Set = |options| options.of_positives = true;
const SMOOTH: Set = |options| options.smoothing = 0.5;

/// Kinds with options, or with sets of their own: the loss, how positives are given, the loss whose rule it has, and the
/// options. Each option with each layout that allows it, and in combinations. The types of inputs and gradients follow the
/// place: kinds with biases on pairs stand apart, so that every type of both has one.
const OPTIONED_KINDS: [(&str, Given, &str, &[Set]); 24] = [
    // Row-wise options, with the launches of every loss.
    ("info_nce", Given::IndexWithGaps, "", &[WEIGHTS, COUNTED]),
    ("nt_xent", Given::Diagonal, "", &[WEIGHTS, COUNTED]),
    ("clip", Given::Diagonal, "", &[WEIGHTS, COUNTED]),
    ("moco", Given::Diagonal, "", &[WEIGHTS, COUNTED]),
    // Exclusions and biases around one positive.
    ("info_nce", Given::Index, "", &[IDS, BIAS, WEIGHTS]),
    (
        "info_nce",
        Given::IndexWithGaps,
        "",
        &[GUARD, BIAS, COUNTED],
    ),
    ("info_nce", Given::Diagonal, "", &[IDS, GUARD]),
    ("info_nce", Given::Offset, "dcl", &[GUARD, BIAS]),
    ("nt_xent", Given::Diagonal, "", &[IDS, GUARD, BIAS]),
    ("moco", Given::Diagonal, "", &[IDS, GUARD]),
    ("supcon", Given::Index, "nt_xent", &[IDS]),
    // Two exponents.
    (
        "info_nce",
        Given::IndexWithGaps,
        "hard",
        &[BIAS, WEIGHTS, COUNTED],
    ),
    // Sets.
    ("supcon", Given::Labels, "", &[WEIGHTS, COUNTED]),
    ("supcon", Given::Lists, "", &[IDS, BIAS, WEIGHTS, SMOOTH]),
    ("supcon_in", Given::Labels, "", &[]),
    ("supcon_in", Given::Lists, "", &[IDS]),
    ("info_nce", Given::Labels, "supcon_in", &[IDS]),
    ("info_nce", Given::Lists, "", &[BIAS, COUNTED, SMOOTH]),
    ("info_nce", Given::Index, "", &[IDS, BIAS, SMOOTH]),
    (
        "info_nce",
        Given::Lists,
        DECOUPLED_SETS.key,
        &[BIAS, WEIGHTS],
    ),
    // Pointwise rules and soft targets.
    ("siglip", Given::Lists, "", &[IDS, WEIGHTS]),
    ("supcon", Given::Labels, "siglip", &[WEIGHTS]),
    ("dino", Given::Diagonal, "", &[WEIGHTS]),
    ("relic", Given::Diagonal, "", &[]),
];

/// [`OPTIONED_KINDS`].
fn optioned() -> impl Iterator<Item = Kind> {
    let of_key = |key: &str| match key == DECOUPLED_SETS.key {
        true => Some(&DECOUPLED_SETS),
        false => Loss::of(key),
    };
    OPTIONED_KINDS
        .into_iter()
        .map(move |(key, given, rule, set)| {
            let mut options = Options::NONE;
            set.iter().for_each(|set| set(&mut options));
            Kind {
                loss: of_key(key).expect("a key of the table"),
                rule_of: of_key(rule),
                given,
                options,
            }
        })
}

/// All kinds; each rule other than the softmax also on the one-way layouts.
fn kinds() -> Vec<(Kind, Extent)> {
    let plain = |loss, given| Kind {
        loss,
        rule_of: None,
        given,
        options: Options::NONE,
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
    // A loss that is another one at another temperature, or with another's rule, is no other computation.
    let description = |kind: &Kind| *kind.sample().description();
    let mut described: Vec<Description> = thorough.clone().map(|kind| description(&kind)).collect();
    let (mut has_sets, mut has_targets) = (false, false);
    for loss in others {
        let mut kind = plain(loss, Given::Diagonal);
        let rule = kind.sample().rule();
        let is_of_sets = rule.takes_sets() && !rule.is_pointwise();
        let is_of_targets = rule.target_scale().is_some();
        // One form of sets; the others are among the kinds with options. To an engine, keys that the caller keeps are as
        // those of MoCo v3.
        let is_kept = description(&kind).keys == Keys::Kept;
        let is_there = (is_of_sets && has_sets) || (is_of_targets && has_targets);
        if described.contains(&description(&kind)) || is_there || is_kept {
            continue;
        }
        described.push(description(&kind));
        has_targets |= is_of_targets;
        if is_of_sets {
            has_sets = true;
            kind.given = Given::Labels;
        }
        // They share tile loops and exponentials with the others.
        let is_other = is_of_targets || rule.is_pointwise() || rule.is_alignment();
        let extent = if is_other { Extent::Few } else { Extent::Hard };
        kinds.push((kind, extent));
        if rule == RowRule::SOFTMAX || rule.takes_sets() || is_of_targets {
            continue;
        }
        for other in thorough.clone().filter(|kind| kind.sample().is_one_way()) {
            let rule_of = Some(loss);
            let by_rule = Kind { rule_of, ..other };
            described.push(description(&by_rule));
            kinds.push((by_rule, Extent::Few));
        }
    }
    // Sets of one, whose weight is a small difference where it is computed as one.
    let kcl = Loss::of("kcl").expect("a key of the table");
    kinds.push((plain(kcl, Given::Lists), Extent::Confident));
    kinds.extend(optioned().map(|kind| (kind, Extent::Optioned)));
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
    (65, 140, 272, 44.0, Data::Unit),
    (65, 140, 272, 1.0, Data::Unnormalised),
    (65, 140, 272, 20.0, Data::FarBelow(40.0)),
    (65, 140, 272, USUAL_SCALE, Data::Collinear),
    (65, 140, 272, 20.0, Data::Confident(1e-4)),
    (65, 140, 272, USUAL_SCALE, Data::SharedPositives),
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

/// Cases of kinds with options: as [`FEW`], and logits without a bound.
const OPTIONED: [Row; 5] = [
    FEW[0],
    FEW[1],
    FEW[2],
    FEW[3],
    (33, 70, 40, 100.0, Data::Unnormalised),
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
            Extent::Optioned => OPTIONED.into(),
            Extent::Confident => {
                let is_confident = |row: &Row| matches!(row.4, Data::Confident(_));
                HARD.into_iter().filter(is_confident).collect()
            }
        };
        let (values, shapes) = match extent {
            Extent::All => (&VALUES[..], &NOT_FINITE[..]),
            // One value, with each D.
            Extent::Hard | Extent::Few => (&VALUES[number % 3..][..1], &NOT_FINITE[..2]),
            // Exclusions and weights of 0 can leave the element out.
            Extent::Optioned | Extent::Confident => (&VALUES[..0], &NOT_FINITE[..0]),
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
                reduction: match kind.options.of_positives {
                    true => Reduction::MeanOfPositives,
                    false => [Reduction::Mean, Reduction::Sum][place % 2],
                },
                upstream: match data {
                    // Sums of weights that are no shares of 1.
                    _ if kind.sample().rule().is_pointwise() => 1.0 / 1024.0,
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
