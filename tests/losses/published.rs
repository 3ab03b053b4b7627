//! Reference and engine have a published formula's value and derivatives; what a batch has besides its matrices.

use super::*;

/// What a batch has besides its matrices.
pub struct Given {
    pub positives: Positives<Vec<u32>>,
    pub ids: Option<Ids<Vec<u32>>>,
    pub bias: Option<Vec<f32>>,
}

pub const DIAGONAL: Given = Given {
    positives: Positives::DIAGONAL,
    ids: None,
    bias: None,
};

impl Given {
    pub fn positives(positives: Positives<Vec<u32>>) -> Self {
        Self {
            positives,
            ..DIAGONAL
        }
    }

    /// One matrix whose rows have these labels.
    pub fn labels(labels: &[u32]) -> Self {
        Self::positives(Positives::Labels {
            anchors: labels.to_vec(),
            candidates: labels.to_vec(),
        })
    }

    /// A list of positives for each anchor.
    pub fn lists(lists: &[Vec<u32>]) -> Self {
        let ends = lists.iter().scan(0, |end, list| {
            *end += list.len() as u32;
            Some(*end)
        });
        Self::positives(Positives::Lists {
            starts: std::iter::once(0).chain(ends).collect(),
            candidates: lists.concat(),
        })
    }

    /// The contrast on z; q and k; or q, own_key and queue.
    fn problem<'a, V: View<Indices = &'a [u32], Floats = &'a [f32]>>(
        &'a self,
        contrast: &Contrast,
        matrices: &[V],
    ) -> Result<Problem<V>, Error> {
        let last = matrices.len() - 1;
        let matrices = [0, last, last.min(1)].map(|which| matrices[which]);
        let mut problem = contrast.pose(matrices, self.positives.view())?;
        if let Some(ids) = &self.ids {
            let (anchors, candidates) = (&ids.anchors[..], &ids.candidates[..]);
            problem = problem.excluding(Ids {
                anchors,
                candidates,
            })?;
        }
        match &self.bias {
            Some(bias) => problem.with_column_bias(bias),
            None => Ok(problem),
        }
    }
}

/// Loss, dq, dk and dbias of the CPU engine; those that the problem has not are empty.
pub fn on_cpu(
    contrast: &Contrast,
    matrices: &[Dense],
    given: &Given,
) -> Result<(f32, [Vec<f32>; 3]), Error> {
    let numbers: Vec<Vec<f32>> = matrices.iter().map(narrow).collect();
    let dim = (&matrices[0]).dim();
    let views: Result<Vec<_>, Error> = numbers
        .iter()
        .map(|x| Rows::new(x, x.len() / dim, dim))
        .collect();
    let problem = given.problem(contrast, &views?)?;
    let shape = problem.shape();
    let mut dq = vec![f32::NAN; shape.anchors * dim];
    let has_dk = contrast.has_dk();
    let mut dk = vec![f32::NAN; shape.candidates * dim * usize::from(has_dk)];
    let bias = given.bias.as_deref().unwrap_or_default();
    let mut dbias = vec![f32::NAN; bias.len()];
    let mut gradients = Gradients::new(
        RowsMut::new(&mut dq, shape.anchors, dim)?,
        match has_dk {
            true => Some(RowsMut::new(&mut dk, shape.candidates, dim)?),
            false => None,
        },
    );
    if given.bias.is_some() {
        gradients = gradients.with_bias(RowsMut::new(&mut dbias, 1, bias.len())?);
    }
    let value = CpuEngine::new().value_and_grad(&problem, 1.0, gradients)?;
    Ok((value.loss, [dq, dk, dbias]))
}

pub fn in_float64(
    contrast: &Contrast,
    matrices: &[Dense],
    given: &Given,
) -> Result<reference::Reference, Error> {
    let views: Vec<&Dense> = matrices.iter().collect();
    let problem = given.problem(contrast, &views)?;
    Ok(reference::value_and_grad(&problem, 1.0))
}

/// Reference and engine have the formula's value, and its derivatives by central differences.
pub fn is_published(
    contrast: &Contrast,
    matrices: &[Dense],
    formula: impl Fn(&[Dense]) -> f64,
) -> Test {
    is_published_with(contrast, matrices, &DIAGONAL, formula)
}

/// As [`is_published`], of a batch with positives and options. The formula has the biases, if there are any, as a last
/// matrix of one row.
pub fn is_published_with(
    contrast: &Contrast,
    matrices: &[Dense],
    given: &Given,
    formula: impl Fn(&[Dense]) -> f64,
) -> Test {
    const STEP: f64 = 1e-5;
    let what = contrast.name();
    let mut variables = matrices.to_vec();
    let bias = given.bias.iter();
    variables.extend(bias.map(|bias| Dense::from_fn(1, bias.len(), |_, j| f64::from(bias[j]))));
    let expected = formula(&variables);
    let reference = in_float64(contrast, matrices, given)?;
    let (loss, [dq, dk, dbias]) = on_cpu(contrast, matrices, given)?;
    assert_near(&[reference.loss], &[expected], 1e-12, what);
    assert_near(&[f64::from(loss)], &[expected], 1e-5, what);

    let derivatives = |which: usize| -> Vec<f64> {
        let at = |place: usize, step: f64| {
            let mut moved = variables.clone();
            moved[which].as_mut_slice()[place] += step;
            formula(&moved)
        };
        let places = 0..variables[which].as_slice().len();
        places
            .map(|place| (at(place, STEP) - at(place, -STEP)) / (2.0 * STEP))
            .collect()
    };
    let last = variables.len() - 1;
    let all = [
        (0, Some(reference.dq.as_slice()), dq),
        (1, reference.dk.as_ref().map(Dense::as_slice), dk),
        (last, reference.dbias.as_deref(), dbias),
    ];
    for (which, in_float64, on_cpu) in all {
        let Some(in_float64) = in_float64 else {
            continue;
        };
        let expected = derivatives(which);
        assert_near(in_float64, &expected, 1e-7, what);
        assert_near(&wide(&on_cpu), &expected, 1e-5, what);
    }
    Ok(())
}
