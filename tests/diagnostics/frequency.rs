//! The share of low frequencies by a plain transform.

use super::*;

/// The share by the definition, of one sum over all pixels for each frequency.
fn plain_share(map: &[f32], [height, width, channels]: [usize; 3], radius: f64) -> f64 {
    let [mut low, mut all] = [0.0; 2];
    for c in 0..channels {
        let pixel = |y: usize, x: usize| f64::from(map[(y * width + x) * channels + c]);
        for u in 0..height {
            for v in 0..width {
                let [mut re, mut im] = [0.0; 2];
                for y in 0..height {
                    for x in 0..width {
                        let turns = (u * y) as f64 / height as f64 + (v * x) as f64 / width as f64;
                        re += pixel(y, x) * (TAU * turns).cos();
                        im -= pixel(y, x) * (TAU * turns).sin();
                    }
                }
                let f =
                    [(u, height), (v, width)].map(|(k, n)| 2.0 * k.min(n - k) as f64 / n as f64);
                let energy = if u + v == 0 { 0.0 } else { re * re + im * im };
                all += energy;
                if f[0].hypot(f[1]) < radius {
                    low += energy;
                }
            }
        }
    }
    low / all
}

#[test]
fn a_cosine_has_all_energy_at_its_frequency() -> Test {
    let (height, width, channels) = (12, 16, 3);
    let shape = [height, width, channels];
    let wave = |u: usize, v: usize, amplitude: f64| -> Vec<f32> {
        let pixel = |place: usize| {
            let (y, x) = (place / channels / width, place / channels % width);
            let turns = (u * y) as f64 / height as f64 + (v * x) as f64 / width as f64;
            // Channels have another mean each.
            amplitude * (TAU * turns).cos() + (place % channels) as f64
        };
        (0..height * width * channels)
            .map(|place| pixel(place) as f32)
            .collect()
    };
    let size = height * width * channels;
    for (u, v, frequency) in [
        (0, 1, 0.125f64),
        (3, 0, 0.5),
        (6, 0, 1.0),
        (0, 8, 1.0),
        (3, 4, 0.5f64.sqrt()),
        (6, 8, 2f64.sqrt()),
        // Its mirror image: 12 − 9 = 3 and 16 − 12 = 4.
        (9, 12, 0.5f64.sqrt()),
    ] {
        let map = wave(u, v, 0.7);
        let share = |radius| low_frequency_share(rows(&map, size), shape, radius);
        near(share(frequency - 1e-9)?, 0.0, 1e-9, "below");
        near(share(frequency + 1e-9)?, 1.0, 1e-9, "above");
    }
    // Energies go as squared amplitudes, and add up over maps.
    let maps = [wave(1, 0, 1.0), wave(4, 0, 2.0)].concat();
    near(
        low_frequency_share(rows(&maps, size), shape, 0.5)?,
        0.2,
        1e-6,
        "two maps",
    );
    let sum: Vec<f32> = maps[..size]
        .iter()
        .zip(&maps[size..])
        .map(|(x, y)| x + y)
        .collect();
    near(
        low_frequency_share(rows(&sum, size), shape, 0.5)?,
        0.2,
        1e-6,
        "their sum",
    );
    Ok(())
}

#[test]
fn the_low_frequency_share_equals_a_plain_transform() -> Test {
    fn check<T: Element>() -> Test {
        for shape in [[5, 8, 2], [6, 1, 3], [1, 7, 1], [4, 4, 1]] {
            let size = shape.iter().product();
            let x: Vec<T> = random(size, 53).iter().map(|&x| T::from_f32(x)).collect();
            let map: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
            for radius in [0.3, 0.55, 0.9, 1.5] {
                let found = low_frequency_share(rows(&x, size), shape, radius)?;
                near(found, plain_share(&map, shape, radius), 1e-12, "share");
            }
        }
        Ok(())
    }
    check::<f32>()?;
    check::<f16>()?;
    check::<bf16>()
}

#[test]
fn maps_without_a_spectrum_are_refused() {
    let map = random(24, 59);
    let share = |map: &[f32], shape, radius| low_frequency_share(rows(map, 12), shape, radius);
    for shape in [[2, 3, 3], [0, 3, 4], [usize::MAX, 2, 2]] {
        let found = share(&map, shape, 0.5);
        assert!(matches!(
            found,
            Err(Error::Length {
                argument: "maps",
                given: 12,
                ..
            })
        ));
    }
    for radius in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let found = share(&map, [2, 3, 2], radius);
        assert!(matches!(
            found,
            Err(Error::Scalar {
                argument: "radius",
                ..
            })
        ));
    }
    let constant = share(&[0.1, 0.7].repeat(12), [2, 3, 2], 0.5);
    assert!(matches!(
        constant,
        Err(Error::Unsupported { option: "maps", .. })
    ));
    let mut broken = map.clone();
    broken[13] = f32::NAN;
    let found = share(&broken, [2, 3, 2], 0.5);
    assert_eq!(
        found,
        Err(Error::NotFinite {
            argument: "maps",
            row: 1
        })
    );
}
