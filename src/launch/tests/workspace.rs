//! The bytes that a call takes are those that `workspace_bytes` announced.

use half::{bf16, f16};

use super::*;
use crate::contrast::Work;
use crate::engine::Engine;

fn fp8() -> EmulatedEngine {
    engine(Schedule::Early, 1, true).with_fp8_scores(true)
}

fn portable() -> EmulatedEngine {
    engine(Schedule::Early, 1, false)
}

/// Announces and runs `work` on a new engine.
fn check<T: Element>(
    new: fn() -> EmulatedEngine,
    contrast: &Contrast,
    dim: usize,
    work: Work,
) -> Result<(), Error> {
    let (batch, index) = (Batch::<T>::new(90, 150, dim), index(90, 150));
    let problem = batch.problem(contrast, Positives::Index(&index))?;
    let (engine, shape) = (new(), problem.shape());
    let announced = engine.workspace_bytes(work, contrast, shape, T::DTYPE)?;
    with_gradients::<_, f32, _>(&problem, |mut to| {
        match work {
            Work::Forward => drop(engine.forward(&problem)?),
            Work::ValueAndGrad { dk } => {
                to.dk = to.dk.filter(|_| dk);
                drop(engine.value_and_grad(&problem, 1.0, to)?);
            }
            Work::Backward { .. } => {
                let statistics = new().forward(&problem)?.statistics;
                engine.backward(&problem, &statistics, 1.0, to)?;
            }
        }
        Ok(())
    })?;
    let what = format!("{} {shape:?} {work:?} {}", contrast.name(), T::DTYPE);
    assert_eq!(engine.held_bytes(), announced, "{what}");
    Ok(())
}

#[test]
fn a_call_takes_exactly_the_memory_that_was_announced() -> Result<(), Error> {
    fn check_type<T: Element>() -> Result<(), Error> {
        let info = Contrast::info_nce(0.1)?;
        let options = [
            info.with_label_smoothing(0.1)?,
            info.with_guard(0.1)?,
            Contrast::hard_negatives(0.5, 1.0, 0.1)?,
        ];
        for contrast in contrasts()?.into_iter().chain(options) {
            let dk = contrast.has_dk();
            // D with and without padding; fused and in several chunks.
            for dim in [7, 64, 264] {
                for work in [
                    Work::Forward,
                    Work::ValueAndGrad { dk },
                    Work::ValueAndGrad { dk: false },
                    Work::Backward { dk },
                ] {
                    check::<T>(portable, &contrast, dim, work)?;
                }
            }
            if options.contains(&contrast) {
                continue;
            }
            for dim in [7, 64, 600] {
                check::<T>(fp8, &contrast, dim, Work::Forward)?;
            }
        }
        Ok(())
    }
    check_type::<f32>()?;
    check_type::<f16>()?;
    check_type::<bf16>()
}

#[test]
fn the_memory_of_shapes_that_no_call_takes_is_refused() -> Result<(), Error> {
    let bytes = |anchors, candidates, dim| {
        let shape = Shape {
            anchors,
            candidates,
            dim,
        };
        portable().workspace_bytes(Work::Forward, &Contrast::moco(0.1)?, shape, DType::F32)
    };
    assert!(bytes(4, 4, 4).is_ok());
    assert!(matches!(bytes(0, 4, 4), Err(Error::Empty { .. })));
    assert!(matches!(bytes(4, 4, 4097), Err(Error::Scalar { .. })));
    let many = bytes(4, u32::MAX as usize, 4);
    assert!(matches!(many, Err(Error::Scalar { .. })));
    Ok(())
}
