//! Weights of two terms, W_ij = 2^(z - o_i) + 2^(z - o_j), share one exponential where no offset o is far from 0.

use super::*;

/// NT-Xent and CLIP on the fixture's rows; logits are up to about `scale`·D / 2.
fn losses(fixture: &Fixture, scale: f32) -> Result<[Problem<DeviceMatrix>; 2], Error> {
    Ok([
        fixture.problem(&Contrast::nt_xent(1.0 / scale)?)?,
        fixture.problem(&Contrast::clip(scale)?)?,
    ])
}

#[test]
fn one_exponential_serves_where_no_lse_is_far_from_zero() -> Result<(), Error> {
    // Fused and in chunks.
    for (hopper, dim) in [
        (false, 40),
        (false, 300),
        (true, 40),
        (true, 100),
        (true, 300),
    ] {
        let device = device(Schedule::Mixed, 7, 3, hopper);
        let fixture = Fixture::new(device, [ROWS, ROWS, dim], 0)?;
        let (memory, &Gradients { dq, dk, .. }) = (&fixture.memory, &fixture.gradients);
        let similarity = Similarity::new(&memory.device, 0);
        // ‖x‖² is about D / 2: the largest lse in base 2 is about 29 (near) for s·D = 40, and 230 (far) for s·D = 320.
        for (scale, is_far) in [(40.0 / dim as f32, 0), (320.0 / dim as f32, 1)] {
            for problem in losses(&fixture, scale)? {
                let contrast = problem.contrast();
                let name = format!(
                    "{} s = {scale} D = {dim}, sm_90a: {hopper}",
                    contrast.name()
                );
                let forward = similarity.forward(&problem)?;
                let derived = forward.statistics.derived.as_ref();
                let derived = derived.expect("a forward leaves what it made of its statistics");
                // The word that is set where an offset is far from 0.
                let far = derived.flags.address() + 8;
                assert_eq!(memory.read::<u32>(far, 1)?, [is_far], "{name}");
                let gradients = Gradients::new(dq, dk.filter(|_| contrast.has_dk()));
                let run = |word: u32| -> Result<Vec<f32>, Error> {
                    memory.write(far, &[word])?;
                    similarity.backward(&problem, &forward.statistics, 1.0, &gradients)?;
                    memory.elements(dq)
                };
                let (one, two) = (run(0)?, run(1)?);
                assert!(two.iter().all(|x| x.is_finite()), "{name}");
                if is_far == 1 {
                    // With the word cleared one exponential serves both terms, and 2^z overflows f32.
                    assert!(one.iter().any(|x| !x.is_finite()), "{name}");
                    continue;
                }
                let two: Vec<f64> = two.into_iter().map(f64::from).collect();
                let off = relative_error(&one, &two);
                // A weight near the middle of two bf16 values may be rounded to either.
                assert!(off <= 1e-4, "{name}: {off}");
            }
        }
    }
    Ok(())
}
