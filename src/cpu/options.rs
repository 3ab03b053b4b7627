//! Options of a problem, applied to one row of a block of logits at a time: biases, sets of positives, exclusions and
//! two exponents. A problem without them never comes here.

use std::borrow::Cow;
use std::f64::consts::LOG2_E;
use std::ops::Range;

use super::blocks::BLOCK;
use super::simd::{Kernel, Set, SetTerms};
use crate::element::Element;
use crate::losses::RowValues;
use crate::positives::{NO_ID, NO_POSITIVE, Positives};
use crate::rows::Rows;

/// Words of the candidates of one block.
pub(super) type BlockWords = [u32; BLOCK];

/// What a problem has besides one positive a row.
pub(super) struct Options<'a> {
    /// c_j / s.
    bias: Option<Vec<f32>>,
    /// Ids of anchors and candidates.
    ids: Option<[&'a [u32]; 2]>,
    /// Of each row the largest product that the guard keeps.
    limits: Option<Vec<f32>>,
    /// Where the rule takes sets.
    sets: Option<Sets<'a>>,
    /// 1 + β and β, where the rule has two exponents.
    pub exponents: Option<[f32; 2]>,
    /// The sign of the second exponential.
    sign: f32,
    /// Whether labels are smoothed, which needs the sum of the negatives' logits.
    pub smooths: bool,
    /// b·log₂e of a pointwise rule.
    pub pointwise: Option<f32>,
}

/// Which candidates are positives.
enum Sets<'a> {
    /// Labels of anchors and of candidates.
    Labels([&'a [u32]; 2]),
    /// Where the anchors' lists start, and the lists.
    Lists([Cow<'a, [u32]>; 2]),
}

impl Sets<'_> {
    /// Lists of at most one candidate.
    fn of_one(positives: &[Option<usize>]) -> Self {
        let candidates: Vec<u32> = positives.iter().flatten().map(|&j| j as u32).collect();
        let starts = positives.iter().scan(0, |start, positive| {
            *start += u32::from(positive.is_some());
            Some(*start)
        });
        let starts: Vec<u32> = std::iter::once(0).chain(starts).collect();
        Self::Lists([starts, candidates].map(Cow::Owned))
    }
}

impl<'a> Options<'a> {
    /// `None` for a problem without options. `positives` is each anchor's one positive, `positive_logits` its z₊.
    pub fn of<T: Element>(
        given: &crate::problem::Problem<Rows<'a, T>>,
        (scale, logit_bias): (f64, Option<f32>),
        positives: &[Option<usize>],
        positive_logits: &[f64],
    ) -> Option<Self> {
        if !given.has_options() {
            return None;
        }
        let (contrast, rule) = (given.contrast(), given.contrast().rule());
        let sets = match given.positives() {
            _ if !contrast.has_sets() => None,
            Some(Positives::Labels {
                anchors,
                candidates,
            }) => Some(Sets::Labels([anchors, candidates])),
            Some(Positives::Lists { starts, candidates }) => {
                Some(Sets::Lists([starts, candidates].map(Cow::Borrowed)))
            }
            _ => Some(Sets::of_one(positives)),
        };
        let limit = |margin: f32| {
            let of = |&z: &f64| match z {
                f64::NEG_INFINITY => f32::INFINITY,
                z => (z / scale - f64::from(margin)) as f32,
            };
            positive_logits.iter().map(of).collect()
        };
        let bias = given.column_bias();
        let in_products = |bias: &[f32]| {
            bias.iter()
                .map(|&c| (f64::from(c) / scale) as f32)
                .collect()
        };
        Some(Self {
            bias: bias.map(in_products),
            ids: given.ids().map(|ids| [ids.anchors, ids.candidates]),
            limits: contrast.description().guard.map(limit),
            sets,
            exponents: rule
                .exponents()
                .map(|exponents| exponents.map(|x| x as f32)),
            sign: rule.second_sign() as f32,
            smooths: rule.is_smoothed(),
            pointwise: logit_bias.map(|bias| (f64::from(bias) * LOG2_E) as f32),
        })
    }

    /// Adds biases to the products of anchor `i` with the candidates from `first` on, and sets those that it excludes to
    /// −∞. `words` has room for the words of the set of positives that it returns, where the rule takes sets.
    pub fn prepare<'w>(
        &'w self,
        kernel: &Kernel,
        (i, first): (usize, usize),
        products: &mut [f32],
        words: &'w mut BlockWords,
    ) -> Option<Set<'w>> {
        let columns = first..first + products.len();
        if let Some(bias) = &self.bias {
            for (product, bias) in products.iter_mut().zip(&bias[columns.clone()]) {
                *product += bias;
            }
        }
        let set = self
            .sets
            .as_ref()
            .map(|sets| sets.of(i, columns.clone(), words));
        if let Some([anchors, candidates]) = self.ids
            && anchors[i] != NO_ID
        {
            let ids = Set {
                word: anchors[i],
                words: &candidates[columns],
            };
            kernel.exclude_equal(products, ids, set);
        }
        if let Some(limits) = &self.limits {
            kernel.exclude_above(products, limits[i]);
        }
        set
    }

    /// Turns products, as [`prepare`](Self::prepare) takes them, into weights ∂φ/∂z_ij.
    pub fn weigh(
        &self,
        kernel: &Kernel,
        at: (usize, usize),
        products: &mut [f32],
        scale2: f32,
        row: &RowTerms,
    ) {
        let mut words = [0; BLOCK];
        let set = self.prepare(kernel, at, products, &mut words);
        if let Some(exponents) = self.exponents {
            let scales2 = exponents.map(|exponent| exponent * scale2);
            kernel.weigh_two(products, scales2, row.offsets2);
        } else if let (Some(bias2), Some(set)) = (self.pointwise, set) {
            kernel.weigh_pointwise(products, [scale2, bias2], row.factor(), set);
        } else if let Some(set) = set
            && (row.uniform != 0.0 || !kernel.is_empty(set))
        {
            let terms = SetTerms {
                offsets2: row.offsets2,
                factors: [1.0, self.sign],
                summands: [-row.uniform, -row.positive - row.uniform],
            };
            kernel.weigh_sets(products, scale2, &terms, set);
        } else {
            kernel.exp_row(products, scale2, row.offsets2[0]);
        }
    }
}

impl Sets<'_> {
    /// The positives of anchor `i` among the candidates `columns`. `words` has room for the words of a list.
    fn of<'w>(&'w self, i: usize, columns: Range<usize>, words: &'w mut BlockWords) -> Set<'w> {
        const LISTED: u32 = 1;
        let words = &mut words[..columns.len()];
        match self {
            Self::Labels([anchors, candidates]) if anchors[i] != NO_POSITIVE => Set {
                word: anchors[i],
                words: &candidates[columns],
            },
            Self::Labels(_) => {
                words.fill(0);
                Set {
                    word: LISTED,
                    words,
                }
            }
            Self::Lists([starts, candidates]) => {
                let list = &candidates[starts[i] as usize..starts[i + 1] as usize];
                let place = |column: usize| list.partition_point(|&j| (j as usize) < column);
                words.fill(0);
                for &j in &list[place(columns.start)..place(columns.end)] {
                    words[j as usize - columns.start] = LISTED;
                }
                Set {
                    word: LISTED,
                    words,
                }
            }
        }
    }
}

/// What the weights of a row depend on: [`RowValues`] in f32, offsets times log₂e.
pub(super) struct RowTerms {
    /// Of both exponentials.
    pub offsets2: [f32; 2],
    /// The first offset less the second, rounded once.
    pub gap2: f32,
    positive: f32,
    uniform: f32,
}

impl RowTerms {
    pub fn new(values: &RowValues) -> Self {
        Self {
            offsets2: [values.offset, values.second].map(|offset| (offset * LOG2_E) as f32),
            gap2: ((values.offset - values.second) * LOG2_E) as f32,
            positive: values.positive as f32,
            uniform: values.uniform as f32,
        }
    }

    /// e^−o, the factor of a pointwise rule's weights.
    pub fn factor(&self) -> f32 {
        (-self.offsets2[0]).exp2()
    }
}
