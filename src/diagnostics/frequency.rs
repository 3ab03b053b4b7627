//! The share of low spatial frequencies in feature maps.

use std::f64::consts::TAU;

use rayon::prelude::*;

use super::wide;
use crate::contrast::same_length;
use crate::element::Element;
use crate::error::Error;
use crate::rows::{Matrix, Rows};

/// Share of the spectral energy of N feature maps, each H × W × C row-major, at spatial frequencies up to `radius`: high
/// for shapes, low for textures (Park et al. 2023, section 3.2, compare the amplitudes of such frequencies).
///
/// F_c is the 2-D discrete Fourier transform of channel c of a map less its mean. Energies add up over maps and channels:
/// ```text
/// share = Σ_{|f(u, v)| ≤ radius} |F_c(u, v)|² / Σ_{all u, v} |F_c(u, v)|²
/// f(u, v) = (2·min(u, H − u)/H, 2·min(v, W − v)/W)
/// ```
/// f, and so `radius`, is in units of the Nyquist frequency, half a cycle a pixel: 1 along an axis alternates from pixel to
/// pixel, and √2, the diagonal, holds all energy. The unit is another one for maps of another H or W. The host computes
/// in f64, with 4·H·W·(H + W) multiplications a channel: meant for maps of up to about 100 × 100.
///
/// ```
/// use infonce::{Rows, diagnostics};
/// // A 4 × 4 map of one channel whose rows alternate: all energy is at the Nyquist frequency.
/// let map = [1.0f32, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0].repeat(2);
/// let maps = Rows::new(&map, 1, 16)?;
/// assert!(diagnostics::low_frequency_share(maps, [4, 4, 1], 0.9)? < 1e-12);
/// assert!(diagnostics::low_frequency_share(maps, [4, 4, 1], 1.0)? > 1.0 - 1e-12);
/// # Ok::<(), infonce::Error>(())
/// ```
///
/// # Errors
/// [`Error::Length`] unless the rows of `maps` have H·W·C elements; [`Error::Scalar`] unless `radius` is finite and greater
/// than 0; [`Error::NotFinite`] for a map with NaN or infinity; [`Error::Unsupported`] where every channel is constant.
pub fn low_frequency_share<T: Element>(
    maps: Rows<'_, T>,
    [height, width, channels]: [usize; 3],
    radius: f64,
) -> Result<f64, Error> {
    let size = height.saturating_mul(width).saturating_mul(channels);
    same_length("maps", maps.dim(), size)?;
    if !(radius.is_finite() && radius > 0.0) {
        return Err(Error::Scalar {
            argument: "radius",
            given: radius,
            allowed: "finite and greater than 0",
        });
    }
    let elements = wide("maps", maps)?;
    let transforms = [Transform::new(height), Transform::new(width)];
    let planes: Vec<(&[f64], usize)> = elements
        .chunks(size)
        .flat_map(|map| (0..channels).map(move |channel| (map, channel)))
        .collect();
    // Collected before they are added, so that the order of the sum does not depend on threads.
    let energies: Vec<[f64; 2]> = planes
        .into_par_iter()
        .map(|(map, channel)| {
            let plane = map.iter().skip(channel).step_by(channels).copied();
            energies(plane.collect(), &transforms, radius)
        })
        .collect();
    let [low, all] = [0, 1].map(|k| energies.iter().map(|pair| pair[k]).sum::<f64>());
    if all == 0.0 {
        return Err(Error::Unsupported {
            option: "maps",
            reason: "every channel of every map is constant, without energy",
        });
    }
    Ok(low / all)
}

/// The energies of a plane less its mean: up to `radius`, and in all.
fn energies(mut plane: Vec<f64>, [rows, columns]: &[Transform; 2], radius: f64) -> [f64; 2] {
    // A constant plane becomes 0 exactly; less its mean alone it would be rounding errors.
    let first = plane[0];
    plane.iter_mut().for_each(|x| *x -= first);
    let mean = plane.iter().sum::<f64>() / plane.len() as f64;
    plane.iter_mut().for_each(|x| *x -= mean);
    let width = columns.length();
    // Of every row of the plane, then of every column of the result.
    let along_rows = plane
        .chunks(width)
        .flat_map(|row| columns.of(row.iter().map(|&x| [x, 0.0])));
    let along_rows: Vec<[f64; 2]> = along_rows.collect();
    let [mut low, mut all] = [0.0; 2];
    for v in 0..width {
        let column = along_rows.iter().skip(v).step_by(width).copied();
        for (u, [re, im]) in rows.of(column).enumerate() {
            let energy = re * re + im * im;
            let frequency = [rows.frequency(u), columns.frequency(v)];
            all += energy;
            if frequency.iter().map(|f| f * f).sum::<f64>() <= radius * radius {
                low += energy;
            }
        }
    }
    [low, all]
}

/// The discrete Fourier transform of one length: cosine and sine of 2πk/length.
struct Transform(Vec<[f64; 2]>);

impl Transform {
    fn new(length: usize) -> Self {
        let angle = |k: usize| TAU * k as f64 / length as f64;
        Self(
            (0..length)
                .map(|k| [angle(k).cos(), angle(k).sin()])
                .collect(),
        )
    }

    fn length(&self) -> usize {
        self.0.len()
    }

    /// |f| of the k-th coefficient, in units of the Nyquist frequency.
    fn frequency(&self, k: usize) -> f64 {
        2.0 * k.min(self.length() - k) as f64 / self.length() as f64
    }

    /// All coefficients of a complex signal.
    fn of(&self, signal: impl Iterator<Item = [f64; 2]> + Clone) -> impl Iterator<Item = [f64; 2]> {
        (0..self.length()).map(move |k| {
            let terms = signal.clone().enumerate().map(|(place, [re, im])| {
                let [cosine, sine] = self.0[k * place % self.length()];
                [re * cosine + im * sine, im * cosine - re * sine]
            });
            terms.fold([0.0; 2], |[re, im], [x, y]| [re + x, im + y])
        })
    }
}
