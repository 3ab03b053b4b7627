//! Exponentials, sums, maxima and masks of a tile's rows, as plain loops that vectorise.
//!
//! Everything is in base 2: with scale₂ = s·log₂e and offset₂ = o·log₂e,
//! exp(s·⟨q,k⟩ − o) = 2^(scale₂·dot − offset₂).

use super::set::{Set, SetTerms};

/// Lanes of independent partial sums: two AVX-512 vectors, four AVX2 vectors.
const LANES: usize = 32;

/// 2^x, error below 1.5 ulp for x in [−126, 127.5): 2^x = 2^n · 2^r, n = round(x), |r| ≤ ½, and a
/// degree-6 polynomial fitted to 2^r (minimax relative error 2·10⁻⁹).
/// 0 below −126 (and at −∞), ∞ from 127.5 on, NaN at NaN.
#[inline(always)]
fn exp2<const FMA: bool>(x: f32) -> f32 {
    // Adding 1.5·2²³ leaves round(x) in the low bits of the significand.
    const ROUND: f32 = 12_582_912.0;
    const LOWEST: f32 = -126.0;
    // Comparisons rather than `max`/`min`, so that a NaN passes through.
    let clamped = if x < LOWEST { LOWEST } else { x };
    let clamped = if clamped > 128.0 { 128.0 } else { clamped };
    let shifted = clamped + ROUND;
    let r = clamped - (shifted - ROUND);
    let mut polynomial = C6;
    for coefficient in [C5, C4, C3, C2, C1, 1.0] {
        polynomial = if FMA {
            polynomial.mul_add(r, coefficient)
        } else {
            polynomial * r + coefficient
        };
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    let value = polynomial * power;
    if x < LOWEST { 0.0 } else { value }
}

/// 2^r − 1 of |r| ≤ ½, with the digits of r, by the polynomial of [`exp2`].
#[inline(always)]
fn exp2_m1<const FMA: bool>(r: f32) -> f32 {
    let mut polynomial = C6;
    for coefficient in [C5, C4, C3, C2, C1] {
        polynomial = if FMA {
            polynomial.mul_add(r, coefficient)
        } else {
            polynomial * r + coefficient
        };
    }
    polynomial * r
}

const C1: f32 = std::f32::consts::LN_2;
const C2: f32 = 0.24022648;
const C3: f32 = 0.055503324;
const C4: f32 = 0.009618437;
const C5: f32 = 0.0013398874;
const C6: f32 = 0.00015353362;

/// log(1 + t) of 0 ≤ t ≤ 1, relative error below 2·10⁻⁷: t·(1 + t·p(t)), p fitted at Chebyshev's nodes.
#[inline(always)]
fn ln_1p<const FMA: bool>(t: f32) -> f32 {
    let mut polynomial = L9;
    for coefficient in [L8, L7, L6, L5, L4, L3, L2, L1, 1.0] {
        polynomial = if FMA {
            polynomial.mul_add(t, coefficient)
        } else {
            polynomial * t + coefficient
        };
    }
    t * polynomial
}

const L1: f32 = -0.49999997;
const L2: f32 = 0.33332843;
const L3: f32 = -0.24986526;
const L4: f32 = 0.19854106;
const L5: f32 = -0.15847565;
const L6: f32 = 0.11561845;
const L7: f32 = -0.066_757_72;
const L8: f32 = 0.025224054;
const L9: f32 = -0.0044662114;

#[inline(always)]
fn exponent<const FMA: bool>(dot: f32, scale2: f32, offset2: f32) -> f32 {
    if FMA {
        dot.mul_add(scale2, -offset2)
    } else {
        dot * scale2 - offset2
    }
}

/// The lanes' sum, pairwise: the order is fixed, and the rounding error grows with log(LANES).
#[inline(always)]
fn reduce(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
pub(super) fn exp_row<const FMA: bool>(row: &mut [f32], scale2: f32, offset2: f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let mut chunks = row.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (value, sum) in chunk.iter_mut().zip(&mut sums) {
            *value = exp2::<FMA>(exponent::<FMA>(*value, scale2, offset2));
            *sum += *value;
        }
    }
    for (value, sum) in chunks.into_remainder().iter_mut().zip(&mut sums) {
        *value = exp2::<FMA>(exponent::<FMA>(*value, scale2, offset2));
        *sum += *value;
    }
    reduce(sums)
}

#[inline(always)]
pub(super) fn exp_row_into_columns<const FMA: bool>(
    row: &mut [f32],
    scale2: f32,
    offset2: f32,
    columns: &mut [f32],
) -> f32 {
    let sum = exp_row::<FMA>(row, scale2, offset2);
    for (column, value) in columns.iter_mut().zip(row) {
        *column += *value;
    }
    sum
}

#[inline(always)]
pub(super) fn exp_row_both<const FMA: bool>(
    row: &mut [f32],
    scale2: f32,
    offset2: f32,
    column_offsets2: &[f32],
) {
    for (value, &column_offset2) in row.iter_mut().zip(column_offsets2) {
        let by_row = exp2::<FMA>(exponent::<FMA>(*value, scale2, offset2));
        let by_column = exp2::<FMA>(exponent::<FMA>(*value, scale2, column_offset2));
        *value = by_row + by_column;
    }
}

#[inline(always)]
pub(super) fn max_row(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = row.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (&value, lane) in chunk.iter().zip(&mut lanes) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    for (&value, lane) in chunks.remainder().iter().zip(&mut lanes) {
        *lane = if value > *lane { value } else { *lane };
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// One candidate of a set, or of the rest: which of two values it takes.
#[inline(always)]
fn of_class<T: Copy>(is_positive: bool, [negative, positive]: [T; 2]) -> T {
    if is_positive { positive } else { negative }
}

/// Calls `run` with LANES elements and words at a time, the last ones filled up with −∞.
#[inline(always)]
fn in_lanes(row: &[f32], words: &[u32], mut run: impl FnMut(&[f32; LANES], &[u32; LANES])) {
    let (chunks, rest) = row.as_chunks();
    let (words, last_words) = words.as_chunks();
    for (chunk, words) in chunks.iter().zip(words) {
        run(chunk, words);
    }
    if !rest.is_empty() {
        let (mut chunk, mut words) = ([f32::NEG_INFINITY; LANES], [0; LANES]);
        chunk[..rest.len()].copy_from_slice(rest);
        words[..rest.len()].copy_from_slice(last_words);
        run(&chunk, &words);
    }
}

#[inline(always)]
pub(super) fn max_sets(row: &[f32], set: Set<'_>) -> [f32; 2] {
    let mut negatives = [f32::NEG_INFINITY; LANES];
    let mut positives = [f32::NEG_INFINITY; LANES];
    in_lanes(row, set.words, |row, words| {
        for lane in 0..LANES {
            let is_positive = words[lane] == set.word;
            let negative = of_class(is_positive, [row[lane], f32::NEG_INFINITY]);
            let positive = of_class(is_positive, [f32::NEG_INFINITY, row[lane]]);
            negatives[lane] = if negative > negatives[lane] {
                negative
            } else {
                negatives[lane]
            };
            positives[lane] = if positive > positives[lane] {
                positive
            } else {
                positives[lane]
            };
        }
    });
    [negatives, positives].map(|lanes| lanes.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

#[inline(always)]
pub(super) fn sum_exp_sets<const FMA: bool>(
    row: &[f32],
    scale2: f32,
    offsets2: [f32; 2],
    set: Set<'_>,
) -> [f32; 2] {
    let (mut negatives, mut positives) = ([0.0f32; LANES], [0.0f32; LANES]);
    in_lanes(row, set.words, |row, words| {
        for lane in 0..LANES {
            let is_positive = words[lane] == set.word;
            let offset2 = of_class(is_positive, offsets2);
            let exponential = exp2::<FMA>(exponent::<FMA>(row[lane], scale2, offset2));
            negatives[lane] += of_class(is_positive, [exponential, 0.0]);
            positives[lane] += of_class(is_positive, [0.0, exponential]);
        }
    });
    [reduce(negatives), reduce(positives)]
}

#[inline(always)]
pub(super) fn sum_set(row: &[f32], set: Set<'_>, of_positives: bool) -> [f32; 2] {
    let (mut sums, mut counts) = ([0.0f32; LANES], [0.0f32; LANES]);
    in_lanes(row, set.words, |row, words| {
        for lane in 0..LANES {
            let is_counted = (words[lane] == set.word) == of_positives;
            let is_kept = is_counted & (row[lane] != f32::NEG_INFINITY);
            sums[lane] += if is_kept { row[lane] } else { 0.0 };
            counts[lane] += if is_kept { 1.0 } else { 0.0 };
        }
    });
    [reduce(sums), reduce(counts)]
}

#[inline(always)]
pub(super) fn is_empty(set: Set<'_>) -> bool {
    let found = set.words.iter().map(|&word| u32::from(word == set.word));
    found.fold(0, |any, found| any | found) == 0
}

#[inline(always)]
pub(super) fn weigh_sets<const FMA: bool>(
    row: &mut [f32],
    scale2: f32,
    terms: &SetTerms,
    set: Set<'_>,
) {
    for (value, &word) in row.iter_mut().zip(set.words) {
        let is_positive = word == set.word;
        let offset2 = of_class(is_positive, terms.offsets2);
        let exponential = exp2::<FMA>(exponent::<FMA>(*value, scale2, offset2));
        let factor = of_class(is_positive, terms.factors);
        let weight = factor * exponential + of_class(is_positive, terms.summands);
        *value = if *value == f32::NEG_INFINITY {
            0.0
        } else {
            weight
        };
    }
}

#[inline(always)]
pub(super) fn sum_exp_two<const FMA: bool>(
    row: &[f32],
    scales2: [f32; 2],
    offsets2: [f32; 2],
) -> [f32; 2] {
    let (mut firsts, mut seconds) = ([0.0f32; LANES], [0.0f32; LANES]);
    let mut add = |row: &[f32; LANES]| {
        for lane in 0..LANES {
            firsts[lane] += exp2::<FMA>(exponent::<FMA>(row[lane], scales2[0], offsets2[0]));
            seconds[lane] += exp2::<FMA>(exponent::<FMA>(row[lane], scales2[1], offsets2[1]));
        }
    };
    let (chunks, rest) = row.as_chunks();
    chunks.iter().for_each(&mut add);
    let mut last = [f32::NEG_INFINITY; LANES];
    last[..rest.len()].copy_from_slice(rest);
    add(&last);
    [reduce(firsts), reduce(seconds)]
}

#[inline(always)]
pub(super) fn weigh_two<const FMA: bool>(row: &mut [f32], scales2: [f32; 2], offsets2: [f32; 2]) {
    let ([first_scale, second_scale], [first_offset, second_offset]) = (scales2, offsets2);
    for value in row {
        let first = exp2::<FMA>(exponent::<FMA>(*value, first_scale, first_offset));
        let second = exp2::<FMA>(exponent::<FMA>(*value, second_scale, second_offset));
        *value = first - second;
    }
}

/// A logit's softplus and sigmoid, from `y2` = y·log₂e.
#[inline(always)]
fn logistic<const FMA: bool>(y2: f32) -> [f32; 2] {
    let t = exp2::<FMA>(-y2.abs());
    let positive = if y2 < 0.0 { 0.0 } else { y2 };
    let numerator = if y2 < 0.0 { t } else { 1.0 };
    let softplus = positive * std::f32::consts::LN_2 + ln_1p::<FMA>(t);
    [softplus, numerator / (1.0 + t)]
}

#[inline(always)]
pub(super) fn weigh_pointwise<const FMA: bool>(
    row: &mut [f32],
    scale2: f32,
    bias2: f32,
    factor: f32,
    set: Set<'_>,
) -> f32 {
    let mut sums = [0.0f32; LANES];
    let mut weigh = |row: &mut [f32; LANES], words: &[u32; LANES]| {
        for lane in 0..LANES {
            let is_positive = words[lane] == set.word;
            let x2 = exponent::<FMA>(row[lane], scale2, -bias2);
            let [softplus, sigmoid] = logistic::<FMA>(of_class(is_positive, [x2, -x2]));
            // An excluded candidate is no positive either.
            let is_kept = row[lane] != f32::NEG_INFINITY;
            sums[lane] += if is_kept { softplus } else { 0.0 };
            let weight = factor * of_class(is_positive, [sigmoid, -sigmoid]);
            row[lane] = if is_kept { weight } else { 0.0 };
        }
    };
    let (chunks, rest) = row.as_chunks_mut();
    let (words, last_words) = set.words.as_chunks();
    for (chunk, words) in chunks.iter_mut().zip(words) {
        weigh(chunk, words);
    }
    if !rest.is_empty() {
        let (mut chunk, mut words) = ([f32::NEG_INFINITY; LANES], [0; LANES]);
        chunk[..rest.len()].copy_from_slice(rest);
        words[..rest.len()].copy_from_slice(last_words);
        weigh(&mut chunk, &words);
        rest.copy_from_slice(&chunk[..rest.len()]);
    }
    reduce(sums)
}

#[inline(always)]
pub(super) fn sum_targets<const FMA: bool>(
    [row, targets]: [&[f32]; 2],
    scales2: [f32; 2],
    offsets2: [f32; 2],
) -> [f32; 4] {
    let mut sums = [[0.0f32; LANES]; 4];
    let mut add = |row: &[f32; LANES], targets: &[f32; LANES], kept: usize| {
        for lane in 0..LANES {
            let of_row = exp2::<FMA>(exponent::<FMA>(row[lane], scales2[0], offsets2[0]));
            let target = exp2::<FMA>(exponent::<FMA>(targets[lane], scales2[1], offsets2[1]));
            let is_kept = lane < kept;
            sums[0][lane] += if is_kept { of_row } else { 0.0 };
            sums[1][lane] += if is_kept { target } else { 0.0 };
            sums[2][lane] += if is_kept { target * row[lane] } else { 0.0 };
            sums[3][lane] += if is_kept { target * targets[lane] } else { 0.0 };
        }
    };
    let ((rows, last_row), (of_targets, last_target)) = (row.as_chunks(), targets.as_chunks());
    for (row, targets) in rows.iter().zip(of_targets) {
        add(row, targets, LANES);
    }
    let mut last = [[0.0; LANES]; 2];
    last[0][..last_row.len()].copy_from_slice(last_row);
    last[1][..last_row.len()].copy_from_slice(last_target);
    add(&last[0], &last[1], last_row.len());
    sums.map(reduce)
}

#[inline(always)]
pub(super) fn weigh_targets<const FMA: bool>(
    row: &mut [f32],
    targets: &[f32],
    scales2: [f32; 2],
    offsets2: [f32; 2],
    gap2: f32,
) {
    for (value, &product) in row.iter_mut().zip(targets) {
        let target = exp2::<FMA>(exponent::<FMA>(product, scales2[1], offsets2[1]));
        // Where both exponentials nearly agree, their difference has the digits of the exponents' difference.
        let moved = exponent::<FMA>(product, scales2[1], -gap2);
        let difference = exponent::<FMA>(*value, scales2[0], moved);
        let far = exp2::<FMA>(exponent::<FMA>(*value, scales2[0], offsets2[0])) - target;
        let near = target * exp2_m1::<FMA>(difference);
        *value = if difference.abs() < 0.5 { near } else { far };
    }
}

#[inline(always)]
pub(super) fn exclude_equal(row: &mut [f32], ids: Set<'_>, but: Option<Set<'_>>) {
    let excluded = |is_excluded: bool, value: &mut f32| {
        *value = if is_excluded {
            f32::NEG_INFINITY
        } else {
            *value
        };
    };
    match but {
        None => {
            for (value, &id) in row.iter_mut().zip(ids.words) {
                excluded(id == ids.word, value);
            }
        }
        Some(set) => {
            for ((value, &id), &word) in row.iter_mut().zip(ids.words).zip(set.words) {
                excluded((id == ids.word) & (word != set.word), value);
            }
        }
    }
}

#[inline(always)]
pub(super) fn exclude_above(row: &mut [f32], limit: f32) {
    for value in row {
        *value = if *value > limit {
            f32::NEG_INFINITY
        } else {
            *value
        };
    }
}
