//! What calls take of a pool, and what was announced.

use half::{bf16, f16};

use super::{contrasts, index, numbers};
use crate::contrast::{Contrast, Shape, Work};
use crate::element::{DType, Element};
use crate::engine::{Engine, Gradients};
use crate::error::Error;
use crate::host::{HostEngine, Schedule};
use crate::inputs::Positives;
use crate::rows::{Rows, RowsMut};

/// Runs `work` on a new engine; what a pool then holds.
fn held<T: Element>(contrast: &Contrast, shape: Shape, work: Work) -> Result<usize, Error> {
    let (anchors, candidates, dim) = (shape.anchors, shape.candidates, shape.dim);
    let engine = HostEngine::new(Schedule::Early, 1);
    let (q, k) = (
        numbers::<T>(anchors, dim, 1),
        numbers::<T>(candidates, dim, 2),
    );
    let own = numbers::<T>(anchors, dim, 3);
    let rows = |numbers| Rows::new(numbers, anchors, dim);
    let matrices = [rows(&q)?, Rows::new(&k, candidates, dim)?, rows(&own)?];
    let index = index(anchors, candidates);
    let problem = contrast.pose(matrices, Positives::Index(&index))?;
    let (mut dq, mut dk) = (vec![0.0f32; anchors * dim], vec![0.0f32; candidates * dim]);
    let dk = match work {
        Work::ValueAndGrad { dk: true } | Work::Backward { dk: true } => {
            Some(RowsMut::new(&mut dk, candidates, dim)?)
        }
        _ => None,
    };
    let gradients = Gradients::new(RowsMut::new(&mut dq, anchors, dim)?, dk);
    match work {
        Work::Forward => drop(engine.forward(&problem)?),
        Work::ValueAndGrad { .. } => drop(engine.value_and_grad(&problem, 1.0, gradients)?),
        Work::Backward { .. } => {
            let other = HostEngine::new(Schedule::Early, 2);
            let statistics = other.forward(&problem)?.statistics;
            engine.backward(&problem, &statistics, 1.0, gradients)?;
        }
    }
    Ok(engine.held_bytes())
}

#[test]
fn a_call_takes_exactly_the_memory_that_was_announced() -> Result<(), Error> {
    fn check<T: Element>(dtype: DType) -> Result<(), Error> {
        // D that need padding and that do not, fused and in several chunks.
        for dim in [7, 64, 264] {
            for contrast in contrasts()? {
                let square = contrast.is_shared() || contrast.has_columns();
                let shape = Shape {
                    anchors: 90,
                    candidates: if square { 90 } else { 300 },
                    dim,
                };
                let dk = contrast.has_dk();
                for call in [
                    Work::Forward,
                    Work::ValueAndGrad { dk },
                    Work::ValueAndGrad { dk: false },
                    Work::Backward { dk },
                ] {
                    let engine = HostEngine::new(Schedule::Early, 0);
                    let announced = engine.workspace_bytes(call, &contrast, shape, dtype)?;
                    let taken = held::<T>(&contrast, shape, call)?;
                    assert_eq!(
                        taken,
                        announced,
                        "{} {shape:?} {call:?} {dtype}",
                        contrast.name()
                    );
                }
            }
        }
        Ok(())
    }
    check::<f32>(DType::F32)?;
    check::<f16>(DType::F16)?;
    check::<bf16>(DType::Bf16)
}

#[test]
fn the_memory_of_shapes_that_no_call_takes_is_refused() -> Result<(), Error> {
    let engine = HostEngine::new(Schedule::Early, 0);
    let bytes = |shape| {
        let contrast = Contrast::moco(0.1)?;
        engine.workspace_bytes(Work::Forward, &contrast, shape, DType::F32)
    };
    let shape = Shape {
        anchors: 4,
        candidates: 4,
        dim: 4,
    };
    assert!(bytes(shape).is_ok());
    assert!(matches!(
        bytes(Shape {
            anchors: 0,
            ..shape
        }),
        Err(Error::Empty { .. })
    ));
    assert!(matches!(
        bytes(Shape { dim: 4097, ..shape }),
        Err(Error::Scalar { .. })
    ));
    let many = Shape {
        candidates: u32::MAX as usize,
        ..shape
    };
    assert!(matches!(bytes(many), Err(Error::Scalar { .. })));
    Ok(())
}
