//! Exponentials, sums, maxima and masks of a tile's rows, as plain loops that vectorise.
//!
//! Everything is in base 2: with scale₂ = s·log₂e and offset₂ = o·log₂e,
//! exp(s·⟨q,k⟩ − o) = 2^(scale₂·dot − offset₂).

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

const C1: f32 = std::f32::consts::LN_2;
const C2: f32 = 0.24022648;
const C3: f32 = 0.055503324;
const C4: f32 = 0.009618437;
const C5: f32 = 0.0013398874;
const C6: f32 = 0.00015353362;

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

/// Moves the entries whose word is `word` to `to`, and leaves −∞ in both for the others' places; whether it moved any.
#[inline(always)]
pub(super) fn split_row(row: &mut [f32], word: u32, words: &[u32], to: &mut [f32]) -> bool {
    let mut found = 0;
    for ((value, to), &other) in row.iter_mut().zip(to).zip(words) {
        let is_equal = other == word;
        *to = if is_equal { *value } else { f32::NEG_INFINITY };
        *value = if is_equal { f32::NEG_INFINITY } else { *value };
        found |= u32::from(is_equal);
    }
    found != 0
}

#[inline(always)]
pub(super) fn exclude_equal(row: &mut [f32], word: u32, words: &[u32]) {
    for (value, &other) in row.iter_mut().zip(words) {
        *value = if other == word {
            f32::NEG_INFINITY
        } else {
            *value
        };
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

/// Sum and number of the entries other than −∞.
#[inline(always)]
pub(super) fn sum_row(row: &[f32]) -> [f32; 2] {
    let (mut sums, mut counts) = ([0.0f32; LANES], [0.0f32; LANES]);
    for chunk in row.chunks(LANES) {
        for ((&value, sum), count) in chunk.iter().zip(&mut sums).zip(&mut counts) {
            let is_kept = value != f32::NEG_INFINITY;
            *sum += if is_kept { value } else { 0.0 };
            *count += if is_kept { 1.0 } else { 0.0 };
        }
    }
    [reduce(sums), reduce(counts)]
}

/// row_j += factor·terms_j + summand where logits_j is not −∞.
#[inline(always)]
pub(super) fn add_where(
    row: &mut [f32],
    logits: &[f32],
    terms: &[f32],
    [factor, summand]: [f32; 2],
) {
    for ((value, &logit), &term) in row.iter_mut().zip(logits).zip(terms) {
        let more = factor * term + summand;
        *value += if logit == f32::NEG_INFINITY {
            0.0
        } else {
            more
        };
    }
}
