//! The positives of two views of every image whose labels are known.

use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use crate::Positives;

/// The stream of the seed's generator that the first step draws positives from; each step has its own.
const DRAWS: u64 = 1 << 32;

/// Every row of the same label (Khosla et al. 2020, equation 2). Row i and row i + N are views of
/// image i, which has `labels[i]`.
pub(super) fn of_class(labels: &[u32]) -> Positives<Vec<u32>> {
    let rows = [labels, labels].concat();
    Positives::Labels {
        anchors: rows.clone(),
        candidates: rows,
    }
}

/// A row's other view and `drawn` other rows of its label, or all where there are fewer (Kang et al.
/// 2021). Seed and step determine which.
pub(super) fn drawn_from_class(
    labels: &[u32],
    drawn: usize,
    seed: u64,
    step: u64,
) -> Positives<Vec<u32>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(DRAWS.wrapping_add(step));
    let (images, rows) = (labels.len(), 2 * labels.len());
    let (mut starts, mut candidates) = (vec![0], Vec::new());
    for row in 0..rows {
        let (image, other_view) = (row % images, (row + images) % rows);
        let others: Vec<usize> = (0..rows)
            .filter(|other| other % images != image && labels[other % images] == labels[image])
            .collect();
        let count = drawn.min(others.len());
        let chosen = index::sample(&mut random, others.len(), count).into_iter();
        let mut of_row: Vec<u32> = chosen.map(|place| others[place] as u32).collect();
        of_row.push(other_view as u32);
        of_row.sort_unstable();
        candidates.extend(of_row);
        starts.push(candidates.len() as u32);
    }
    Positives::Lists { starts, candidates }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_positives_are_the_other_view_and_some_of_its_class() {
        // Three images of one class, and one alone.
        let labels = [5, 5, 9, 5];
        let draw = |step| match drawn_from_class(&labels, 2, 3, step) {
            Positives::Lists { starts, candidates } => (starts, candidates),
            other => panic!("{other:?}"),
        };
        let (starts, candidates) = draw(0);
        assert_eq!(starts, [0, 3, 6, 7, 10, 13, 16, 17, 20]);
        for row in 0..8 {
            let of_row = &candidates[starts[row] as usize..starts[row + 1] as usize];
            assert!(of_row.is_sorted_by(|a, b| a < b), "{of_row:?}");
            assert!(of_row.contains(&((row as u32 + 4) % 8)), "{of_row:?}");
            let of_class = |&other: &u32| labels[other as usize % 4] == labels[row % 4];
            assert!(of_row.iter().all(of_class) && !of_row.contains(&(row as u32)));
        }
        assert_eq!(draw(0), (starts, candidates.clone()));
        assert_ne!(draw(1).1, candidates);
    }
}
