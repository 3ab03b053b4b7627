//! e4m3 by its definition (Micikevicius et al. 2022, "FP8 Formats for Deep Learning", table 1), for tests. It shares
//! nothing with the kernels' bit arithmetic.

use std::sync::LazyLock;

/// The code of NaN, without its sign bit.
pub(crate) const NAN: u8 = 0x7f;

/// The value of a code.
pub(crate) fn value(code: u8) -> f64 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f64::from(code & 7) / 8.0);
    let size = match (exponent, code & 7) {
        (15, 7) => f64::NAN,
        (0, _) => fraction * 2f64.powi(-6),
        _ => (1.0 + fraction) * 2f64.powi(exponent - 7),
    };
    if code & 0x80 == 0 { size } else { -size }
}

static POSITIVE: LazyLock<Vec<f64>> = LazyLock::new(|| (0..NAN).map(value).collect());

/// The code of the nearest value, ties to even; the largest finite one for larger `x`.
pub(crate) fn nearest(x: f32) -> u8 {
    if x.is_nan() {
        return NAN;
    }
    let size = f64::from(x.abs()).min(value(NAN - 1));
    let positive = &*POSITIVE;
    let distance = |code: u8| (positive[usize::from(code)] - size).abs();
    let code = (1..NAN).fold(0, |best, code| {
        let tie = distance(code) == distance(best) && code % 2 == 0;
        match distance(code) < distance(best) || tie {
            true => code,
            false => best,
        }
    });
    code | u8::from(x.is_sign_negative()) << 7
}

/// A row's codes and its scale, as rowwise/quantize.cu defines them.
pub(crate) fn quantized(row: &[f32]) -> (Vec<u8>, f32) {
    let largest = row.iter().fold(0.0f32, |largest, x| {
        if x.is_nan() || largest.is_nan() {
            f32::NAN
        } else {
            largest.max(x.abs())
        }
    });
    let scale = match largest {
        0.0 => 1.0,
        largest if largest.is_finite() => (largest / 448.0).max(f32::MIN_POSITIVE),
        _ => f32::NAN,
    };
    let inverse = 1.0 / scale;
    (row.iter().map(|x| nearest(x * inverse)).collect(), scale)
}
