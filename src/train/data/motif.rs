//! The ten repeated motifs of the demo set, as functions of a point in the plane.
//!
//! Each motif repeats with period 1 (or a small multiple) along both axes and equals one of its
//! mirror images, so that flipping, rotating or scaling a picture of it keeps its class.

/// Whether a motif's first colour covers the point `(u, v)`, in periods. The third argument, around
/// 1, thickens strokes, bars and dots.
pub(super) type Covers = fn(f32, f32, f32) -> bool;

/// Tilings of the plane in two colours, by name; a motif's place here is its label.
pub(super) const MOTIFS: [(&str, Covers); 10] = [
    ("stripes", |u, _, thicken| stripe(u, thicken)),
    ("checks", |u, v, _| (centred(u) < 0.0) != (centred(v) < 0.0)),
    ("dots", |u, v, thicken| from_middle(u, v) < 0.32 * thicken),
    ("rings", |u, v, thicken| {
        (from_middle(u, v) - 0.34).abs() < 0.085 * thicken
    }),
    ("crosses", |u, v, thicken| {
        let (x, y) = (centred(u).abs(), centred(v).abs());
        x.min(y) < 0.12 * thicken && x.max(y) < 0.40
    }),
    ("triangles", |u, v, _| {
        // Skew coordinates along two sides of an equilateral lattice: the triangles that point one
        // way are covered, those that point the other way are not.
        let height = v * 2.0 / SQRT_3;
        let along = u - 0.5 * height;
        along.rem_euclid(1.0) + height.rem_euclid(1.0) < 1.0
    }),
    ("zigzag", |u, v, thicken| {
        // Stripes displaced by a triangle wave of amplitude ½ and period 1.5.
        stripe(u + 2.0 * centred(v / 1.5).abs(), thicken)
    }),
    ("bricks", |u, v, thicken| {
        // Courses of height ⅔, every other one shifted by half a brick of length 4/3.
        let (along, course) = (0.75 * u, 1.5 * v);
        let joint = to_nearest_integer(along + 0.5 * course.floor().rem_euclid(2.0)) / 0.75;
        let bed = to_nearest_integer(course) / 1.5;
        joint.min(bed) < 0.09 * thicken
    }),
    ("honeycomb", |u, v, thicken| {
        // The two nearest of the hexagon centres; a wall runs where they are equally far.
        let [first, second, ..] = hexagon_centres(u, v);
        second - first < 0.2 * thicken
    }),
    ("basket", |u, v, thicken| {
        // Cells of two bars, alternately upright and level.
        let upright = (u.floor() + v.floor()).rem_euclid(2.0) < 0.5;
        let across = if upright { u } else { v };
        stripe(2.0 * across + 0.25, thicken)
    }),
];

const SQRT_3: f32 = 1.732_050_8;

/// The distance of `value` from the nearest middle between two integers, in [-½, ½).
fn centred(value: f32) -> f32 {
    value - value.floor() - 0.5
}

/// Whether upright stripes, half as wide as their period, cover the column `u`.
fn stripe(u: f32, thicken: f32) -> bool {
    centred(u).abs() < 0.25 * thicken
}

/// The distance from the middle of the unit cell that holds the point.
fn from_middle(u: f32, v: f32) -> f32 {
    centred(u).hypot(centred(v))
}

/// The distance of `value` from the nearest integer, in [0, ½].
fn to_nearest_integer(value: f32) -> f32 {
    (value - value.round()).abs()
}

/// Distances from `(u, v)` to the nearest points of the triangular lattice with unit spacing, whose
/// cells are hexagons; in increasing order.
fn hexagon_centres(u: f32, v: f32) -> [f32; 4] {
    let row_height = 0.5 * SQRT_3;
    // The two nearest points are among four: two in each of the rows above and below `(u, v)`.
    let mut distances = [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)].map(|(up, right)| {
        let row = (v / row_height).floor() + up;
        let shift = 0.5 * row.rem_euclid(2.0);
        let column = (u - shift).floor() + right;
        (u - column - shift).hypot(v - row * row_height)
    });
    distances.sort_by(f32::total_cmp);
    distances
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_motif_is_nearly_blank_or_nearly_full() {
        for (name, covers) in MOTIFS {
            let side = 240;
            let covered = (0..side * side)
                .filter(|i| covers((i % side) as f32 / 20.0, (i / side) as f32 / 20.0, 1.0))
                .count();
            let share = covered as f32 / (side * side) as f32;
            assert!((0.15..0.6).contains(&share), "{name} covers {share}");
        }
    }

    #[test]
    fn motifs_repeat() {
        for (name, covers) in MOTIFS {
            // One step of each motif's own lattice along both axes.
            let (du, dv) = match name {
                "triangles" => (0.0, SQRT_3),
                "honeycomb" => (1.0, SQRT_3),
                "zigzag" => (1.0, 1.5),
                "basket" => (2.0, 2.0),
                "bricks" => (4.0 / 3.0, 4.0 / 3.0),
                _ => (1.0, 1.0),
            };
            let differing = (0..10_000)
                .map(|i| ((i % 100) as f32 * 0.0317, (i / 100) as f32 * 0.0291))
                .filter(|&(u, v)| covers(u, v, 1.0) != covers(u + du, v + dv, 1.0))
                .count();
            // Only points that rounding moves across an edge may differ.
            assert!(differing < 20, "{name}: {differing} of 10000 points differ");
        }
    }
}
