//! Weights of two terms, W_ij = 2^(z - lse_i) + 2^(z - lse_j): one exponential where no log-sum-exp is far from 0.

use super::{Fixture, ROWS, device};
use crate::contrast::Contrast;
use crate::device::results::Derived;
use crate::device::{DeviceMatrix, Results, Similarity};
use crate::engine::Gradients;
use crate::error::Error;
use crate::host::{HostDevice, Schedule};
use crate::inputs::Problem;

fn fixture(hopper: bool, dim: usize) -> Result<Fixture, Error> {
    Fixture::on(device(Schedule::Mixed, 7, 3, hopper), ROWS, ROWS, dim)
}

type Loss = (Problem<DeviceMatrix>, Gradients<DeviceMatrix>);

/// NT-Xent of the first rows, and CLIP; of logits up to `scale` times D / 2.
fn losses(fixture: &Fixture, scale: f32) -> Result<[Loss; 2], Error> {
    let Gradients { dq, dk, .. } = fixture.gradients;
    let nt_xent = fixture.problem(&Contrast::nt_xent(1.0 / scale)?)?;
    let clip = fixture.problem(&Contrast::clip(scale)?)?;
    Ok([
        (nt_xent, Gradients::new(dq, None)),
        (clip, Gradients::new(dq, dk)),
    ])
}

/// What a forward made of its statistics; with it stands whether some log-sum-exp is far from 0.
fn derived(forward: &Results<HostDevice>) -> &Derived<HostDevice> {
    let derived = forward.statistics.derived.as_ref();
    derived.expect("a forward leaves what it made of its statistics")
}

#[test]
fn log_sum_exps_far_from_zero_are_noticed() -> Result<(), Error> {
    let fixture = fixture(true, 40)?;
    let similarity = Similarity::new(&fixture.memory.device, 0);
    // Lengths are about √20: the largest lse, in base 2, is about 29·s.
    for (scale, far) in [(1.0, 0), (8.0, 1)] {
        for (problem, _) in losses(&fixture, scale)? {
            let forward = similarity.forward(&problem)?;
            let flags = derived(&forward).flags.read(&fixture.memory.device)?;
            let name = problem.contrast().name();
            assert_eq!(flags[2].to_bits(), far, "{name} s = {scale}");
        }
    }
    Ok(())
}

#[test]
fn one_exponential_gives_the_weights_of_two() -> Result<(), Error> {
    // Fused and in chunks.
    for (hopper, dim) in [
        (false, 40),
        (false, 300),
        (true, 40),
        (true, 100),
        (true, 300),
    ] {
        let fixture = fixture(hopper, dim)?;
        let similarity = Similarity::new(&fixture.memory.device, 0);
        // Logits as at D = 40, near and far.
        for (scale, near) in [(40.0 / dim as f32, true), (320.0 / dim as f32, false)] {
            for (problem, gradients) in losses(&fixture, scale)? {
                let name = problem.contrast().name();
                let name = format!("{name} s = {scale} D = {dim}, sm_90a: {hopper}");
                let forward: Results<HostDevice> = similarity.forward(&problem)?;
                let run = |far: u32| -> Result<Vec<f32>, Error> {
                    let word = derived(&forward).flags.address() + 8;
                    fixture.memory.write(word, &[far])?;
                    similarity.backward(&problem, &forward.statistics, 1.0, &gradients)?;
                    fixture.memory.read(gradients.dq.address, ROWS * dim)
                };
                let (one, two) = (run(0)?, run(1)?);
                assert!(two.iter().all(|x| x.is_finite()), "{name}");
                if !near {
                    // The word is what decides: 2^z of these leaves f32.
                    assert!(one.iter().any(|x| !x.is_finite()), "{name}");
                    continue;
                }
                let norm = |numbers: &mut dyn Iterator<Item = f32>| {
                    numbers.map(|x| x * x).sum::<f32>().sqrt()
                };
                let off = norm(&mut one.iter().zip(&two).map(|(x, y)| x - y));
                // Weights that lie near the middle of two numbers of bf16 are rounded to one or the other.
                let allowed = 1e-4 * norm(&mut two.iter().copied());
                assert!(off <= allowed, "{name}: {off} of {allowed}");
            }
        }
    }
    Ok(())
}
