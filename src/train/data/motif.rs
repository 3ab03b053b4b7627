//! The ten repeated motifs of the demo set, as functions of a point in the plane.
//!
//! Each motif repeats with period 1 (or a small multiple) along both axes and is unchanged by
//! some mirror image, so that neither flipping nor rotating nor scaling a picture of it turns one
//! class into another.

/// A tiling of the plane in two colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Motif {
    Stripes,
    Checks,
    Dots,
    Rings,
    Crosses,
    Triangles,
    Zigzag,
    Bricks,
    Honeycomb,
    Basket,
}

impl Motif {
    /// All motifs; a motif's place here is its label.
    pub(super) const ALL: [Self; 10] = [
        Self::Stripes,
        Self::Checks,
        Self::Dots,
        Self::Rings,
        Self::Crosses,
        Self::Triangles,
        Self::Zigzag,
        Self::Bricks,
        Self::Honeycomb,
        Self::Basket,
    ];

    /// The class name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stripes => "stripes",
            Self::Checks => "checks",
            Self::Dots => "dots",
            Self::Rings => "rings",
            Self::Crosses => "crosses",
            Self::Triangles => "triangles",
            Self::Zigzag => "zigzag",
            Self::Bricks => "bricks",
            Self::Honeycomb => "honeycomb",
            Self::Basket => "basket",
        }
    }

    /// Whether the point `(u, v)`, in periods, is covered by the motif's first colour. `weight`
    /// in [-1, 1] thins or thickens strokes, bars and dots by up to about a quarter.
    pub(super) fn covers(self, u: f32, v: f32, weight: f32) -> bool {
        let thicken = 1.0 + 0.25 * weight;
        // Distances from the middle of the unit cell that holds the point, in [-½, ½).
        let (x, y) = (centred(u), centred(v));
        match self {
            Self::Stripes => centred(u).abs() < 0.25 * thicken,
            Self::Checks => (x < 0.0) != (y < 0.0),
            Self::Dots => x.hypot(y) < 0.32 * thicken,
            Self::Rings => (x.hypot(y) - 0.34).abs() < 0.085 * thicken,
            Self::Crosses => {
                let (near, far) = (x.abs().min(y.abs()), x.abs().max(y.abs()));
                near < 0.12 * thicken && far < 0.40
            }
            Self::Triangles => {
                // Skew coordinates along two sides of an equilateral lattice: the triangles that
                // point one way are covered, those that point the other way are not.
                let height = v * 2.0 / SQRT_3;
                let along = u - 0.5 * height;
                along.rem_euclid(1.0) + height.rem_euclid(1.0) < 1.0
            }
            Self::Zigzag => {
                // Stripes displaced by a triangle wave of amplitude ½ and period 1.5.
                let wave = 2.0 * centred(v / 1.5).abs();
                centred(u + wave).abs() < 0.25 * thicken
            }
            Self::Bricks => {
                // Courses of height ⅔, every other one shifted by half a brick of length 4/3.
                let (along, course) = (0.75 * u, 1.5 * v);
                let joint = to_nearest_integer(along + 0.5 * course.floor().rem_euclid(2.0)) / 0.75;
                let bed = to_nearest_integer(course) / 1.5;
                joint.min(bed) < 0.09 * thicken
            }
            Self::Honeycomb => {
                // The two nearest of the hexagon centres; a wall runs where they are equally far.
                let [first, second] = two_nearest_hexagon_centres(u, v);
                second - first < 0.2 * thicken
            }
            Self::Basket => {
                // Cells of two bars, upright and level in turn.
                let upright = (u.floor() + v.floor()).rem_euclid(2.0) < 0.5;
                let across = if upright { u } else { v };
                centred(2.0 * across + 0.25).abs() < 0.25 * thicken
            }
        }
    }
}

const SQRT_3: f32 = 1.732_050_8;

/// The distance of `value` from the nearest middle between two integers, in [-½, ½).
fn centred(value: f32) -> f32 {
    value - value.floor() - 0.5
}

/// The distance of `value` from the nearest integer, in [0, ½].
fn to_nearest_integer(value: f32) -> f32 {
    (value - value.round()).abs()
}

/// Distances from `(u, v)` to the nearest and second nearest point of the triangular lattice with
/// unit spacing, whose cells are hexagons.
fn two_nearest_hexagon_centres(u: f32, v: f32) -> [f32; 2] {
    let row_height = 0.5 * SQRT_3;
    let mut nearest = [f32::INFINITY; 2];
    let below = (v / row_height).floor();
    // The second nearest is at most 1 away, across: the rows on both sides of the point and the
    // two nearest centres in each hold both.
    for row in [below, below + 1.0] {
        let shift = 0.5 * row.rem_euclid(2.0);
        let left = (u - shift).floor();
        for column in [left, left + 1.0] {
            let distance = (u - column - shift).hypot(v - row * row_height);
            if distance < nearest[0] {
                nearest = [distance, nearest[0]];
            } else if distance < nearest[1] {
                nearest[1] = distance;
            }
        }
    }
    nearest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of a large patch that a motif covers.
    fn share(motif: Motif) -> f32 {
        let side = 240;
        let covered = (0..side * side)
            .filter(|i| motif.covers((i % side) as f32 / 20.0, (i / side) as f32 / 20.0, 0.0))
            .count();
        covered as f32 / (side * side) as f32
    }

    #[test]
    fn no_motif_is_nearly_blank_or_nearly_full() {
        for motif in Motif::ALL {
            let share = share(motif);
            assert!((0.15..0.6).contains(&share), "{motif:?} covers {share}");
        }
    }

    #[test]
    fn motifs_repeat() {
        for motif in Motif::ALL {
            // One step of each motif's own lattice along both axes.
            let (du, dv) = match motif {
                Motif::Triangles => (0.0, SQRT_3),
                Motif::Honeycomb => (1.0, SQRT_3),
                Motif::Zigzag => (1.0, 1.5),
                Motif::Basket => (2.0, 2.0),
                Motif::Bricks => (4.0 / 3.0, 4.0 / 3.0),
                _ => (1.0, 1.0),
            };
            let differing = (0..10_000)
                .map(|i| ((i % 100) as f32 * 0.0317, (i / 100) as f32 * 0.0291))
                .filter(|&(u, v)| motif.covers(u, v, 0.0) != motif.covers(u + du, v + dv, 0.0))
                .count();
            // Only points that rounding moves across an edge may differ.
            assert!(
                differing < 20,
                "{motif:?}: {differing} of 10000 points differ"
            );
        }
    }
}
