//! The triplet loss: no order of threads changes a bit, and neither do gaps between rows.

use half::{bf16, f16};

use super::*;
use crate::contrast::Reduction;
use crate::positives::NO_POSITIVE;
use crate::triplet::{Triplet, Triplets};

/// The loss and the gradients, as bits.
type Bits = (u32, Vec<u32>);

/// 70 anchors, and either 40 candidates or the anchors themselves. Candidate 3 is named by every other anchor.
fn run<T: Element>(
    device: EmulatedDevice,
    dim: usize,
    gap: usize,
    is_shared: bool,
) -> Result<Bits, Error> {
    let (n, m) = (70, if is_shared { 70 } else { 40 });
    let memory = Memory::on(device);
    let index = |step: usize, none: usize| -> Vec<u32> {
        let of = |i: usize| match i {
            _ if i % 9 == none => NO_POSITIVE,
            _ if i.is_multiple_of(2) => 3,
            _ => (i * step % m) as u32,
        };
        (0..n).map(of).collect()
    };
    let q = memory.given::<T>(&numbers(n, dim, 1), dim, gap)?;
    let k = memory.given::<T>(&numbers(m, dim, 2), dim, gap)?;
    let triplets = Triplets {
        q,
        k: (!is_shared).then_some(k),
        positives: memory.words(&index(7, 4))?,
        negatives: memory.words(&index(11, 5))?,
    };
    let loss = Triplet::new(dim as f32)?.with_reduction(Reduction::Sum);
    let problem = loss.on(triplets)?;
    let dq = memory.matrix([n, dim], DType::F32, gap)?;
    let dk = memory.matrix([m, dim], DType::F32, gap)?;
    let gradients = Gradients::new(dq, (!is_shared).then_some(dk));
    let device = &memory.device;
    let loss = Similarity::new(device, 0).triplet(&problem, 0.7, &gradients)?;
    let mut bits = Vec::new();
    for matrix in [Some(gradients.dq), gradients.dk].into_iter().flatten() {
        let elements = memory.elements::<f32>(matrix)?;
        bits.extend(elements.into_iter().map(f32::to_bits));
    }
    Ok((loss.read(device)?[0].to_bits(), bits))
}

fn check<T: Element>() -> Result<(), Error> {
    for is_shared in [false, true] {
        // One warp a row and several, in whole quads and not.
        for dim in [64, 200, 13] {
            let what = format!("{} D = {dim}, {is_shared}", T::DTYPE);
            let plain = in_every_order(&what, |schedule, seed| {
                run::<T>(device(schedule, seed, 3, false), dim, 0, is_shared)
            })?;
            // With gaps of one element, rows are read element by element.
            for gap in [1, 4] {
                let apart = run::<T>(device(Schedule::Mixed, 9, 3, false), dim, gap, is_shared)?;
                assert_eq!(apart, plain, "{what}, gap {gap}");
            }
        }
    }
    Ok(())
}

#[test]
fn triplets_have_the_same_bits_in_any_order_and_layout() -> Result<(), Error> {
    check::<f32>()?;
    check::<f16>()?;
    check::<bf16>()
}
