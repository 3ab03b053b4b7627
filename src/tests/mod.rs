//! Checksums of all results on fixed inputs: a change that must not alter results alters no bit.
//!
//! The checksums are those of x86-64 Linux with the GNU C library, whose `exp` and `log` enter them.

use half::{bf16, f16};

use crate::cpu::Kernel;
use crate::{
    Contrast, CpuEngine, Element, Engine, Error, Gradients, HostMemory, Positives, Problem, Rows,
    RowsMut, Shape, Statistics,
};

/// FNV-1a over the bits of elements.
struct Sum(u64);

impl Sum {
    fn add<T: Element>(&mut self, elements: &[T]) {
        for byte in elements
            .iter()
            .flat_map(|x| x.to_f32().to_bits().to_le_bytes())
        {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn add_statistics(&mut self, statistics: &Statistics) {
        let columns = statistics.columns.as_ref();
        for rows in [Some(&statistics.rows), columns].into_iter().flatten() {
            self.add(&rows.negatives_lse);
            self.add(&rows.positive);
        }
    }
}

/// Pseudo-random elements, the same on every machine.
fn elements<T: Element>(count: usize, seed: u64, largest: f32) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| T::from_f32(largest * next())).collect()
}

const UPSTREAM: f32 = 1.5;

/// N, M, D and s: logits bounded for a fixed offset and others; fused gradients and chunked ones.
const SHAPES: [(usize, usize, usize, f32); 3] =
    [(66, 100, 40, 10.0), (34, 70, 272, 2.0), (34, 70, 40, 100.0)];

type At = fn(f32) -> Result<Contrast, Error>;

/// Each loss at a temperature, and whether its positives are by index.
const LOSSES: [(&str, At, bool); 5] = [
    ("NT-Xent", Contrast::nt_xent, false),
    ("InfoNCE, diagonal", Contrast::info_nce, false),
    ("InfoNCE, index", Contrast::info_nce, true),
    ("MoCo", Contrast::moco, false),
    (
        "CLIP",
        |temperature| Contrast::clip(1.0 / temperature),
        false,
    ),
];

fn of_loss<E: Engine<Memory = HostMemory>, T: Element>(engine: &E, loss: usize) -> u64 {
    let (_, at, by_index) = LOSSES[loss];
    let mut sum = Sum(0xcbf2_9ce4_8422_2325);
    for (n, m, d, scale) in SHAPES {
        let contrast = at(1.0 / scale).unwrap();
        let square = contrast.is_shared() || contrast.has_columns();
        let m = if square { n } else { m };
        let largest = (3.0 / d as f32).sqrt();
        let rows = [(n, 1), (m, 2), (n, 3)];
        let all = rows.map(|(rows, seed)| elements::<T>(rows * d, seed, largest));
        let matrices = [&all[0], &all[1], &all[2]].map(|x| Rows::new(x, x.len() / d, d).unwrap());
        let index: Vec<u32> = (0..n as u32).map(|i| (i * 37 + 11) % m as u32).collect();
        let positives = match by_index {
            true => Positives::Index(&index[..]),
            false => Positives::DIAGONAL,
        };
        let problem = contrast.pose(matrices, positives).unwrap();
        let value = engine.forward(&problem).unwrap();
        sum.add(&[value.loss]);
        sum.add_statistics(&value.statistics);
        add_gradients::<E, T, f32>(engine, &problem, &value.statistics, &mut sum);
        add_gradients::<E, T, T>(engine, &problem, &value.statistics, &mut sum);
    }
    sum.0
}

fn add_gradients<E: Engine<Memory = HostMemory>, T: Element, G: Element>(
    engine: &E,
    problem: &Problem<Rows<'_, T>>,
    statistics: &Statistics,
    sum: &mut Sum,
) {
    let Shape {
        anchors,
        candidates,
        dim,
    } = problem.shape();
    let zero = G::from_f32(0.0);
    for backward in [false, true] {
        let (mut dq, mut dk) = (vec![zero; anchors * dim], vec![zero; candidates * dim]);
        let dk_rows = RowsMut::new(&mut dk, candidates, dim).unwrap();
        let gradients = Gradients::new(
            RowsMut::new(&mut dq, anchors, dim).unwrap(),
            problem.contrast().has_dk().then_some(dk_rows),
        );
        if backward {
            sum.add(&[engine
                .backward(problem, statistics, UPSTREAM, gradients)
                .unwrap()]);
        } else {
            let value = engine.value_and_grad(problem, UPSTREAM, gradients).unwrap();
            sum.add(&[value.loss, value.dscale]);
            sum.add_statistics(&value.statistics);
        }
        sum.add(&dq);
        sum.add(&dk);
    }
}

/// Compares the checksum of each loss, on an engine and with inputs of type `T`, with the known one.
fn check<E: Engine<Memory = HostMemory>, T: Element>(name: &str, engine: &E) {
    let name = format!("{name}, {}", T::DTYPE);
    let found: [u64; 5] = std::array::from_fn(|loss| of_loss::<E, T>(engine, loss));
    let known = CHECKSUMS.iter().find(|(known, _)| *known == name);
    let (_, expected) = known.unwrap_or_else(|| panic!("no checksums of {name}: {found:#018x?}"));
    for ((loss, ..), (found, expected)) in LOSSES.iter().zip(found.iter().zip(expected)) {
        assert_eq!(found, expected, "{name}, {loss}");
    }
}

#[test]
fn cpu_results_keep_their_bits() {
    let with = |kernel| CpuEngine::with_threads(2).unwrap().with_kernel(kernel);
    for kernel in Kernel::all_of_f32() {
        check::<_, f32>(kernel.name, &with(kernel));
        check::<_, f16>(kernel.name, &with(kernel));
        check::<_, bf16>(kernel.name, &with(kernel));
    }
    for kernel in Kernel::all_of_bf16() {
        check::<_, bf16>(kernel.name, &with(kernel));
    }
}

#[cfg(feature = "emulator")]
#[test]
fn emulated_results_keep_their_bits() {
    use crate::emulator::{EmulatedEngine, Schedule};
    let portable = EmulatedEngine::new(Schedule::Mixed, 7);
    check::<_, f32>("portable kernels", &portable);
    check::<_, f16>("portable kernels", &portable);
    check::<_, bf16>("portable kernels", &portable);
    let hopper = EmulatedEngine::new(Schedule::Mixed, 7).with_hopper_kernels();
    check::<_, f16>("kernels for sm_90a", &hopper);
    check::<_, bf16>("kernels for sm_90a", &hopper);
}

/// The checksums of each loss of [`LOSSES`], by kernels and type of inputs.
#[rustfmt::skip]
const CHECKSUMS: [(&str, [u64; 5]); 16] = [
    ("avx512f f32, f32",
        [0xfb26_2849_5261_a6d4, 0x63b5_7665_979c_97a1, 0x04e9_c09d_08df_d79f, 0x02de_900d_36cb_db2d, 0xc8e3_0ec2_0f05_6312]),
    ("avx512f f32, f16",
        [0xfec9_8fc1_8e19_17c4, 0xee21_5bf9_e053_eec8, 0x030a_29ae_2ba2_f8db, 0x15bc_e6e0_17b8_e5e6, 0x22e0_ef3c_de79_5abe]),
    ("avx512f f32, bf16",
        [0x001c_7b38_3f18_87d5, 0x473a_7c5b_89a7_c21d, 0x6a91_f35e_36ff_4658, 0xdda0_5d0e_494b_8efd, 0xef19_09d6_1de2_8de2]),
    ("portable f32, f32",
        [0x9b0f_0d50_094b_6829, 0xaed0_d727_82b8_91fd, 0xb94a_451b_a4ac_5f12, 0xc59a_05c8_683c_9873, 0xa364_a467_d70e_ddef]),
    ("portable f32, f16",
        [0x5dbe_5f3d_eaba_3511, 0x78bd_ed80_5348_8101, 0x6fd7_8b21_7c47_d80d, 0x0162_448a_c241_0b62, 0x8312_0a79_c464_51a6]),
    ("portable f32, bf16",
        [0xd7b9_0746_c031_a125, 0xc734_3e3b_718f_693c, 0x5be0_82e0_30d6_35d8, 0x1a6e_4449_f001_22ef, 0xb88d_411b_7ffc_c23b]),
    ("avx2+fma f32, f32",
        [0xfb26_2849_5261_a6d4, 0x63b5_7665_979c_97a1, 0x04e9_c09d_08df_d79f, 0x02de_900d_36cb_db2d, 0xc8e3_0ec2_0f05_6312]),
    ("avx2+fma f32, f16",
        [0xfec9_8fc1_8e19_17c4, 0xee21_5bf9_e053_eec8, 0x030a_29ae_2ba2_f8db, 0x15bc_e6e0_17b8_e5e6, 0x22e0_ef3c_de79_5abe]),
    ("avx2+fma f32, bf16",
        [0x001c_7b38_3f18_87d5, 0x473a_7c5b_89a7_c21d, 0x6a91_f35e_36ff_4658, 0xdda0_5d0e_494b_8efd, 0xef19_09d6_1de2_8de2]),
    ("portable bf16, bf16",
        [0xc4bb_3a4a_5abe_34f8, 0xb29d_a031_bb0a_8f0c, 0x0d3c_5620_6e0e_cb0e, 0x5977_e81d_163b_ffce, 0xe8fc_ff3a_df25_af5f]),
    ("avx512bf16, bf16",
        [0x5769_4d2b_e83a_1cac, 0x2143_64c8_aab7_40ca, 0xbb14_4c27_aa43_2faf, 0x9e2e_ca34_0c97_7b13, 0xc1c2_4dda_1a26_e588]),
    ("portable kernels, f32",
        [0xd720_5f80_6ac8_c958, 0x8eef_0ea2_cc57_6185, 0x89b8_62c9_56bd_370b, 0x8de1_8b29_cda8_45f7, 0x6ac2_04ed_1efe_e2fa]),
    ("portable kernels, f16",
        [0x8395_21ed_9a34_8f1e, 0x6d8d_7a44_e0a3_bdda, 0xd7c3_4cb3_68e0_d3fa, 0x7db1_0c04_1664_dd9a, 0x8037_bd79_0f28_fb47]),
    ("portable kernels, bf16",
        [0xa0bf_aade_fb34_7953, 0x4488_204b_342a_b7ee, 0x1619_f64c_495f_12a6, 0xd9ee_48ed_3c84_e69e, 0x89e0_040d_9246_b7fd]),
    ("kernels for sm_90a, f16",
        [0x478d_af54_7b35_05e7, 0xcaeb_b298_ae74_f0aa, 0xe910_13f7_ef1b_2969, 0x3842_7fde_71a3_05bd, 0xca93_8d48_323e_5916]),
    ("kernels for sm_90a, bf16",
        [0x1768_a0cf_89e2_42df, 0x2e56_6160_a5ac_46ef, 0xee8c_aa92_7ad4_76c7, 0xf86e_9098_11a1_fc17, 0x9bb0_f8b1_3f5a_5cf7]),
];
