//! What the programs in `examples/` promise. Those for CUDA need a device; without one they say why.

use std::error::Error;

use half::bf16;
use infonce::Element;

macro_rules! examples {
    ($($name:ident: $path:literal),* $(,)?) => {$(
        #[allow(dead_code, reason = "`main` prints what `run` returns")]
        #[path = $path]
        mod $name;
    )*};
}
examples! {
    clip: "../examples/clip.rs",
    moco: "../examples/moco.rs",
    nt_xent: "../examples/nt_xent.rs",
    retrieval: "../examples/retrieval.rs",
}
#[cfg(feature = "cuda")]
examples! {
    cuda_rows: "../examples/cuda_rows.rs",
    cuda_step: "../examples/cuda_step.rs",
}

#[cfg(feature = "cuda")]
#[path = "cuda_device/no_device.rs"]
mod no_device;

type Test = Result<(), Box<dyn Error>>;

#[test]
fn nt_xent_descends_at_every_step() -> Test {
    let losses = nt_xent::run()?;
    assert!(
        losses.is_sorted_by(|before, after| before > after),
        "{losses:?}"
    );
    assert!(losses[losses.len() - 1] < losses[0] / 5.0, "{losses:?}");
    Ok(())
}

#[test]
fn moco_fills_its_queue_then_descends_and_restores_it() -> Test {
    let (steps, queue) = moco::run()?;
    assert_eq!(moco::restored(&queue)?, queue);
    assert_eq!(queue.fill(), moco::CAPACITY);
    let (keys, losses): (Vec<usize>, Vec<f32>) = steps.into_iter().unzip();
    assert_eq!(keys[..8], [32, 64, 96, 128, 160, 192, 224, 256]);
    assert!(keys[8..].iter().all(|&keys| keys == moco::CAPACITY));
    // Batches differ, so losses go up and down a little.
    let last = losses[losses.len() - 10..].iter().sum::<f32>() / 10.0;
    assert!(last < losses[7] - 1.0, "{last} after {}", losses[7]);
    Ok(())
}

#[test]
fn clip_descends_and_its_scale_rises_to_the_clamp() -> Test {
    let (losses, scales): (Vec<f32>, Vec<f32>) = clip::run()?.into_iter().unzip();
    let last = losses.len() - 1;
    assert!(losses[last] < losses[0] / 100.0, "{losses:?}");
    assert!(
        scales.iter().all(|&scale| scale <= clip::MAX_SCALE),
        "{scales:?}"
    );
    // Embeddings without order want a low scale at first.
    assert!(scales[3] < scales[0], "{scales:?}");
    approx::assert_relative_eq!(scales[last], clip::MAX_SCALE, max_relative = 1e-6);
    Ok(())
}

#[test]
fn retrieval_finds_what_was_planted_in_f32_and_bf16() -> Test {
    fn check<T: Element>() -> Test {
        let [best, others] = retrieval::run::<T>()?;
        let found: Vec<u32> = best.indices.chunks(retrieval::BEST).map(|b| b[0]).collect();
        assert_eq!(found, retrieval::WANTED.map(|document| document as u32));
        let [one, other] = retrieval::DUPLICATES;
        assert_eq!(others.indices[one], other as u32);
        assert_eq!(others.indices[other], one as u32);
        Ok(())
    }
    check::<f32>()?;
    check::<bf16>()
}

#[cfg(feature = "cuda")]
mod cuda {
    use approx::assert_abs_diff_eq;
    use infonce::cuda::probe;
    use infonce::{Contrast, CpuEngine, Engine, Gradients, Inputs, Rows, RowsMut};

    use super::{Test, cuda_rows, cuda_step, no_device, nt_xent};

    /// What an example gives; `None` where there is no device, and then the example has said why.
    fn given<T>(run: Result<T, infonce::Error>) -> Result<Option<T>, infonce::Error> {
        match (run, probe()) {
            (Err(error), Err(why)) if error == why => {
                no_device::ignored(&error.to_string());
                Ok(None)
            }
            (run, _) => run.map(Some),
        }
    }

    #[test]
    fn cuda_rows_leaves_the_cpus_gradients_in_their_columns() -> Test {
        use cuda_rows::{DIM, EMBEDDING, GRADIENT, ROWS, TEMPERATURE, WIDTH};
        let Some((loss, tensor)) = given(cuda_rows::run())? else {
            return Ok(());
        };
        let before = cuda_rows::tensor();
        let z: Vec<f32> = before
            .chunks(WIDTH)
            .flat_map(|row| &row[EMBEDDING..][..DIM])
            .copied()
            .collect();
        let mut dz = vec![0.0f32; ROWS * DIM];
        let z = Rows::new(&z, ROWS, DIM)?;
        let gradients = Gradients {
            dq: RowsMut::new(&mut dz, ROWS, DIM)?,
            dk: None,
        };
        let contrast = Contrast::nt_xent(TEMPERATURE)?;
        let inputs = Inputs::Shared { z };
        let value = CpuEngine::new().value_and_grad(&contrast, &inputs, 1.0, gradients)?;
        assert_abs_diff_eq!(loss, value.loss, epsilon = 1e-5 * value.loss);

        let mut expected = before;
        for (row, dz) in expected.chunks_mut(WIDTH).zip(dz.chunks(DIM)) {
            row[GRADIENT..][..DIM].copy_from_slice(dz);
        }
        let found = tensor.download()?;
        let largest = dz.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        assert_abs_diff_eq!(found[..], expected[..], epsilon = 1e-5 * largest);
        // What is no gradient is as it was, to the bit.
        let others = |tensor: &[f32]| -> Vec<u32> {
            let rows = tensor.chunks(WIDTH).flat_map(|row| &row[..GRADIENT]);
            rows.map(|x| x.to_bits()).collect()
        };
        assert_eq!(others(&found), others(&expected));
        Ok(())
    }

    #[test]
    fn cuda_step_descends_as_nt_xent_does_on_the_cpu() -> Test {
        let Some(losses) = given(cuda_step::run())? else {
            return Ok(());
        };
        let expected: Vec<f32> = nt_xent::run()?
            .into_iter()
            .step_by(cuda_step::EVERY)
            .collect();
        assert_abs_diff_eq!(losses[..], expected[..], epsilon = 1e-4);
        Ok(())
    }
}
