//! Contrastive accuracy: how often an anchor's positive is among its most similar candidates.

use crate::contrast::Contrast;
use crate::element::Element;
use crate::engine::{Engine, RowsOf};
use crate::error::Error;
use crate::inputs::Matrices;
use crate::memory::{Evaluation, Read};
use crate::mining::{Known, POSITIVES};
use crate::positives::{NO_POSITIVE, Positives};
use crate::problem::Problem;
use crate::rows::{Elements, View};

/// The larger k of the two accuracies.
const TOP: usize = 5;

/// The result of [`accuracy()`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accuracy {
    /// Share of the counted anchors whose most similar candidate is a positive, from 0 to 1.
    pub top1: f64,
    /// Share of the counted anchors with a positive among the 5 most similar candidates, from 0 to 1.
    pub top5: f64,
    /// Anchors that have a positive, at least 1.
    pub counted: usize,
    /// Anchors without one, which are left out.
    pub left_out: usize,
}

/// Top-1 and top-5 accuracy of the problem's N anchors among its M candidates (`acc1` and `acc5` of the code of MoCo, He
/// et al. 2020), by [`Engine::top_k`] in 2NMD FLOPs.
///
/// Similarity is ⟨q_i, k_j⟩ in f32; scale, rule and weights do not matter. Candidates are those of the anchor's row: all
/// but itself where anchors are candidates, positives among them. Of several positives the most similar counts; one
/// positive by label is, as in the loss, the first candidate of that label. Equal similarities rank as in `top_k`: the
/// lower index first. Own keys ([`Inputs::Queue`](crate::Inputs::Queue)) are compared with the queue and rank before an
/// equal key of it. Their similarities are z₊ at s = 1, which costs a [`forward`](Engine::forward), so that a copy
/// of an own key in the queue may differ from it by rounding. With 5 candidates or fewer `top5` is 1. Where columns have
/// a loss, only rows are counted. The call waits for the engine.
///
/// ```
/// use infonce::{Contrast, CpuEngine, Inputs, Rows, diagnostics};
/// // Two views of three images. Rows 2 and 5 alone are most similar to the other view of their image.
/// let z = [1.0f32, 0.0, 0.9, 0.1, -1.0, 0.0, 0.0, 1.0, 0.9, 0.2, -0.8, -0.1];
/// let problem = Contrast::nt_xent(0.5)?.on(Inputs::Shared { z: Rows::new(&z, 6, 2)? })?;
/// let found = diagnostics::accuracy(&CpuEngine::new(), &problem)?;
/// assert_eq!((found.top1, found.top5), (2.0 / 6.0, 1.0));
/// # Ok::<(), infonce::Error>(())
/// ```
///
/// # Errors
/// [`Error::NotFinite`] for `similarities`, with the anchor, where a row of the problem holds NaN or infinity;
/// [`Error::Unsupported`] where no anchor has a positive, for positives that the host cannot read, and for ids, a guard or
/// column biases, which `top_k` does not know; those of the engine.
pub fn accuracy<E: Engine, T: Element>(
    engine: &E,
    problem: &Problem<RowsOf<'_, E, T>>,
) -> Result<Accuracy, Error> {
    let reason = "a search for the most similar candidates does not know it";
    let refuse = |option| Err(Error::Unsupported { option, reason });
    if problem.contrast().description().guard.is_some() {
        return refuse("guard");
    }
    if problem.ids().is_some() {
        return refuse("ids");
    }
    if problem.column_bias().is_some() {
        return refuse("column_bias");
    }
    let places = match problem.matrices().own_keys {
        Some(_) => places_of_own_keys(engine, problem)?,
        None => places_of_candidates(engine, problem)?,
    };
    let counted = places.iter().flatten().count();
    let share = |below: usize| {
        let hits = places.iter().flatten().filter(|&&place| place < below);
        hits.count() as f64 / counted as f64
    };
    Ok(Accuracy {
        top1: share(1),
        top5: share(TOP),
        counted,
        left_out: places.len() - counted,
    })
}

/// How many candidates rank before an anchor's best positive, [`TOP`] for that many or more; `None` without a positive.
type Place = Option<usize>;

fn places_of_candidates<E: Engine, T: Element>(
    engine: &E,
    problem: &Problem<RowsOf<'_, E, T>>,
) -> Result<Vec<Place>, Error> {
    let contrast = problem.contrast();
    let (n, m) = (problem.shape().anchors, problem.shape().candidates);
    let positives = on_host(problem)?;
    let excludes_self = contrast.excludes_self();
    let known = Known::new(POSITIVES, positives.view(), n, Some(m), excludes_self)?;
    let has_positive = |i| known.count(i, m) > usize::from(excludes_self);
    if !(0..n).any(has_positive) {
        return Err(unsupported("no anchor has one"));
    }
    let Matrices {
        anchors,
        candidates,
        ..
    } = problem.matrices();
    let k = TOP.min(m - usize::from(excludes_self));
    let best = engine
        .top_k(anchors, candidates, k, excludes_self)?
        .read()?;
    all_finite(&best.scores, k)?;
    let place = |(i, listed): (usize, &[u32])| {
        let place = listed.iter().position(|&j| known.is_positive(i, j));
        has_positive(i).then_some(place.unwrap_or(TOP))
    };
    Ok(best.indices.chunks(k).enumerate().map(place).collect())
}

fn unsupported(reason: &'static str) -> Error {
    Error::Unsupported {
        option: "positives",
        reason,
    }
}

/// The positives as the loss takes them: sets as given, otherwise at most one a row.
fn on_host<V: View>(problem: &Problem<V>) -> Result<Positives<Vec<u32>>, Error> {
    let given = problem.positives();
    let given = given.as_ref().map(|given| {
        given.try_map(|_, indices| {
            let indices = indices.on_host().map(<[u32]>::to_vec);
            indices.ok_or(unsupported("the host cannot read them"))
        })
    });
    match given.transpose()? {
        Some(given) if problem.contrast().has_sets() => Ok(given),
        _ => {
            let of = problem.positive_candidates().into_iter();
            let of = of.map(|j| j.map_or(NO_POSITIVE, |j| j as u32));
            Ok(Positives::Index(of.collect()))
        }
    }
}

fn places_of_own_keys<E: Engine, T: Element>(
    engine: &E,
    problem: &Problem<RowsOf<'_, E, T>>,
) -> Result<Vec<Place>, Error> {
    let at_scale_1 = Contrast::moco(1.0)?.on(*problem.inputs())?;
    let own = engine.forward(&at_scale_1)?.statistics().read()?;
    let own = own.rows.positive;
    let Matrices {
        anchors,
        candidates,
        ..
    } = problem.matrices();
    let k = TOP.min(problem.shape().candidates);
    let best = engine.top_k(anchors, candidates, k, false)?.read()?;
    all_finite(&own, 1)?;
    all_finite(&best.scores, k)?;
    let rows = own.iter().zip(best.scores.chunks(k));
    let place = |(own, scores): (&f32, &[f32])| scores.iter().filter(|x| *x > own).count();
    Ok(rows.map(place).map(Some).collect())
}

/// Checks similarities, `k` for each anchor.
fn all_finite(similarities: &[f32], k: usize) -> Result<(), Error> {
    match similarities.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(place) => Err(Error::NotFinite {
            argument: "similarities",
            row: place / k,
        }),
    }
}
