//! Tests each microkernel that runs on this CPU, also those that the engine would not choose, on some cases. The
//! conformance suite runs the chosen one on all.

use super::*;
use crate::CpuEngine;
use crate::cpu::Kernel;

fn every_kernel_is_within_tolerance<T: Element>(kernels: impl Iterator<Item = &'static Kernel>) {
    // The least budget, so that a problem has several chunks.
    let engine = |kernel: &'static Kernel| {
        let engine = CpuEngine::with_threads(2).unwrap();
        (
            kernel.name,
            engine.with_weights_budget(1).with_kernel(kernel),
        )
    };
    let engines: Vec<_> = kernels.map(engine).collect();
    let seed = 2;
    for (index, case) in table(seed).into_iter().enumerate() {
        let is_small = [5, 6, 61, 62, 97, 98].contains(&case.anchors) && case.dim <= 64;
        let is_usual = matches!(case.data, Data::Unit | Data::NotFinite(_)) && case.scale >= 10.0;
        if !is_small || !is_usual {
            continue;
        }
        let problem = Drawn::<T>::draw(&case, &mut random(seed, index)).unwrap();
        let expectation = Expectation::new(&problem).unwrap();
        for (name, engine) in &engines {
            let measurements = check(&[engine], &problem, &expectation, GradientTypes::Both);
            for measurement in measurements.unwrap() {
                assert!(measurement.passes(), "{name}: {case}: {measurement}");
            }
        }
    }
}

#[test]
fn every_kernel_is_within_tolerance_on_f32() {
    every_kernel_is_within_tolerance::<f32>(Kernel::all_of_f32());
}

#[test]
fn every_kernel_is_within_tolerance_on_f16() {
    every_kernel_is_within_tolerance::<f16>(Kernel::all_of_f32());
}

#[test]
fn every_kernel_is_within_tolerance_on_bf16() {
    every_kernel_is_within_tolerance::<bf16>(Kernel::all_of_bf16());
}
