//! A published formula, written plainly in float64, against the reference and the engines: its value, and its derivatives
//! by central differences.

#[cfg(feature = "emulator")]
use infonce::emulator::{EmulatedEngine, Schedule};
use infonce::losses::Layout;
use infonce::reference::{self, Dense};
use infonce::{
    Contrast, CpuEngine, Engine, Error, Gradients, HostMemory, Ids, Inputs, Matrix, Positives,
    Problem, Rows, RowsMut, View,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The upstream gradient of every call.
pub const UPSTREAM: f32 = 1.5;

/// The contents of outputs before a call that is refused.
pub const UNTOUCHED: f32 = 1234.5;

/// Why a call was refused.
pub fn message<R>(result: Result<R, Error>) -> String {
    match result {
        Ok(_) => "accepted".into(),
        Err(error) => error.to_string(),
    }
}

/// The message of [`Error::Unsupported`].
pub fn unsupported(option: &str, reason: &str) -> String {
    format!("`{option}` is not supported here: {reason}")
}

/// A contrast on a batch.
#[derive(Clone)]
pub struct Batch {
    pub contrast: Contrast,
    /// q, k; q, own_key, queue; or q, k, target_q, target_k.
    pub matrices: Vec<Dense>,
    pub positives: Positives<Vec<u32>>,
    pub ids: Option<Ids<Vec<u32>>>,
    pub weights: Option<Vec<f32>>,
    pub target_bias: Option<Vec<f32>>,
    /// In memory, in place of the contrast's.
    pub scale: Option<f32>,
    /// In memory, in place of the contrast's.
    pub logit_bias: Option<f32>,
}

/// What a formula is a function of.
#[derive(Clone)]
pub struct Point {
    pub matrices: Vec<Dense>,
    pub scale: f64,
    pub bias: f64,
}

/// A call's results. dk and dbias are empty where the problem has none.
pub struct Found {
    pub loss: f64,
    pub dq: Vec<f64>,
    pub dk: Vec<f64>,
    pub dbias: Vec<f64>,
    pub dscale: f64,
}

/// Rows of length 1, rounded to f32.
pub fn unit_rows(rows: usize, dim: usize, seed: u64) -> Dense {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let x = Dense::from_fn(rows, dim, |_, _| rng.random_range(-1.0..1.0));
    let length = |i: usize| dot(x.row(i), x.row(i)).sqrt();
    Dense::from_fn(rows, dim, |i, d| {
        f64::from((x.row(i)[d] / length(i)) as f32)
    })
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub fn narrow(x: &Dense) -> Vec<f32> {
    x.as_slice().iter().map(|&x| x as f32).collect()
}

pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Each of `found` is as expected to within `share` of the largest.
pub fn assert_near(found: &[f64], expected: &[f64], share: f64, what: &str) {
    let largest = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    assert_eq!(found.len(), expected.len(), "{what}");
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        let is_near = (found - expected).abs() <= share * largest;
        assert!(is_near, "{what} [{place}]: {found} in place of {expected}");
    }
}

impl Batch {
    pub fn new(contrast: Contrast, matrices: Vec<Dense>) -> Self {
        Self {
            contrast,
            matrices,
            positives: Positives::DIAGONAL,
            ids: None,
            weights: None,
            target_bias: None,
            scale: None,
            logit_bias: None,
        }
    }

    fn problem<'a, V: View<Indices = &'a [u32], Floats = &'a [f32]>>(
        &'a self,
        of: &[V],
    ) -> Result<Problem<V>, Error> {
        let positives = self.positives.view();
        let mut problem = self.contrast.on(match self.contrast.layout() {
            Layout::Queue => Inputs::Queue {
                q: of[0],
                own_key: of[1],
                queue: of[2],
            },
            Layout::Targets => Inputs::Targets {
                q: of[0],
                k: of[1],
                target_q: of[2],
                target_k: of[3],
            },
            _ => Inputs::Pair {
                q: of[0],
                k: of[1],
                positives,
            },
        })?;
        if let Some(ids) = &self.ids {
            let (anchors, candidates) = (&ids.anchors[..], &ids.candidates[..]);
            problem = problem.excluding(Ids {
                anchors,
                candidates,
            })?;
        }
        if let Some(weights) = &self.weights {
            problem = problem.with_row_weights(weights)?;
        }
        match &self.target_bias {
            Some(bias) => problem.with_target_bias(bias),
            None => Ok(problem),
        }
    }

    pub fn in_float64(&self) -> Result<Found, Error> {
        let views: Vec<&Dense> = self.matrices.iter().collect();
        let mut problem = self.problem(&views)?;
        if let Some(scale) = self.scale {
            problem = problem.with_scale(scale.into());
        }
        if let Some(bias) = self.logit_bias {
            problem = problem.with_logit_bias(bias.into())?;
        }
        let found = reference::value_and_grad(&problem, UPSTREAM.into());
        Ok(Found {
            loss: found.loss,
            dq: found.dq.as_slice().to_vec(),
            dk: found.dk.map_or(vec![], |dk| dk.as_slice().to_vec()),
            dbias: found.dbias.unwrap_or_default(),
            dscale: found.dscale,
        })
    }

    pub fn on(&self, engine: &impl Engine<Memory = HostMemory>) -> Result<Found, Error> {
        let numbers: Vec<Vec<f32>> = self.matrices.iter().map(narrow).collect();
        let shapes = self.matrices.iter().map(|x| (x.rows(), x.dim()));
        let views = numbers.iter().zip(shapes);
        let views: Result<Vec<_>, Error> = views
            .map(|(x, (rows, dim))| Rows::new(x, rows, dim))
            .collect();
        let mut problem = self.problem(&views?)?;
        if let Some(scale) = &self.scale {
            problem = problem.with_scale(std::slice::from_ref(scale));
        }
        if let Some(bias) = &self.logit_bias {
            problem = problem.with_logit_bias(std::slice::from_ref(bias))?;
        }
        let shape = problem.shape();
        let (has_dk, has_dbias) = (self.contrast.has_dk(), self.contrast.rule().is_pointwise());
        let mut dq = vec![f32::NAN; shape.anchors * shape.dim];
        let mut dk = vec![f32::NAN; shape.candidates * shape.dim * usize::from(has_dk)];
        let mut dbias = vec![f32::NAN; usize::from(has_dbias)];
        let of_candidates = match has_dk {
            true => Some(RowsMut::new(&mut dk, shape.candidates, shape.dim)?),
            false => None,
        };
        let of_anchors = RowsMut::new(&mut dq, shape.anchors, shape.dim)?;
        let mut gradients = Gradients::new(of_anchors, of_candidates);
        if has_dbias {
            gradients = gradients.with_bias(RowsMut::new(&mut dbias, 1, 1)?);
        }
        let value = engine.value_and_grad(&problem, UPSTREAM, gradients)?;
        Ok(Found {
            loss: value.loss.into(),
            dq: wide(&dq),
            dk: wide(&dk),
            dbias: wide(&dbias),
            dscale: value.dscale.into(),
        })
    }

    pub fn point(&self) -> Point {
        let bias = self.logit_bias.or(self.contrast.rule().logit_bias());
        Point {
            matrices: self.matrices.clone(),
            scale: self.scale.unwrap_or(self.contrast.scale()).into(),
            bias: bias.unwrap_or_default().into(),
        }
    }

    /// Asserts that reference and engines have the formula's value, and its derivatives times the upstream gradient.
    pub fn has_formula(&self, what: &str, formula: impl Fn(&Point) -> f64) -> Result<(), Error> {
        const STEP: f64 = 1e-5;
        let at = self.point();
        let slope = |add: &dyn Fn(&mut Point, f64)| {
            let value = |step: f64| {
                let mut moved = at.clone();
                add(&mut moved, step);
                formula(&moved)
            };
            f64::from(UPSTREAM) * (value(STEP) - value(-STEP)) / (2.0 * STEP)
        };
        let of_matrix = |which: usize| -> Vec<f64> {
            let places = 0..at.matrices[which].as_slice().len();
            let of = |place| slope(&|at, step| at.matrices[which].as_mut_slice()[place] += step);
            places.map(of).collect()
        };
        let expected = Found {
            loss: formula(&at),
            dq: of_matrix(0),
            dk: of_matrix(1),
            dbias: vec![slope(&|at, step| at.bias += step)],
            dscale: slope(&|at, step| at.scale += step),
        };
        let is_expected = |found: Found, by: &str, of_loss: f64, share: f64| {
            let what = |of: &str| format!("{of} of {what}, by {by}");
            assert_near(&[found.loss], &[expected.loss], of_loss, &what("loss"));
            assert_near(&found.dq, &expected.dq, share, &what("dq"));
            if self.contrast.has_dk() {
                assert_near(&found.dk, &expected.dk, share, &what("dk"));
            }
            if self.contrast.rule().is_pointwise() {
                assert_near(&found.dbias, &expected.dbias, share, &what("dbias"));
            }
            // A sum that may cancel.
            let terms = self.matrices[0].as_slice().iter().zip(&expected.dq);
            let size = terms.map(|(q, dq)| (q * dq).abs()).sum::<f64>() / at.scale;
            let off = (found.dscale - expected.dscale).abs();
            assert!(off <= share * size, "{}: {off}", what("dscale"));
        };
        is_expected(self.in_float64()?, "the reference", 1e-12, 1e-7);
        is_expected(self.on(&CpuEngine::new())?, "the CPU", 1e-5, 1e-5);
        #[cfg(feature = "emulator")]
        is_expected(
            self.on(&EmulatedEngine::new(Schedule::Mixed, 3))?,
            "the emulator",
            2e-5,
            2e-5,
        );
        Ok(())
    }
}
