//! What the programs in `examples/` promise; those for CUDA in `cuda_device/examples.rs`.

use std::error::Error;

use half::bf16;
use infonce::Element;

#[expect(dead_code, reason = "`main` prints what `run` returns")]
#[path = "../examples/clip.rs"]
mod clip;
#[expect(dead_code, reason = "`main` prints what `run` returns")]
#[path = "../examples/moco.rs"]
mod moco;
#[expect(dead_code, reason = "`main` prints what `run` returns")]
#[path = "../examples/nt_xent.rs"]
mod nt_xent;
#[expect(dead_code, reason = "`main` prints what `run` returns")]
#[path = "../examples/retrieval.rs"]
mod retrieval;

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
    // Losses vary a little between batches.
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
    // Random embeddings lower the scale at first.
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
