//! Divides images into training and held-out ones, where files have no division of their own.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// One image in this many is held out.
const HELD_OUT: usize = 5;

/// Images, each with its class.
pub(super) type Classed<Image> = Vec<(Image, u32)>;

/// Divides images into those to train on and held-out ones. Of each class one in [`HELD_OUT`] is
/// held out, at least one, but never the only one. Seed and class determine the choice. Both results keep the order of
/// `images`.
pub(super) fn divide<Image>(images: Classed<Image>, seed: u64) -> (Classed<Image>, Classed<Image>) {
    let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (place, (_, class)) in images.iter().enumerate() {
        classes.entry(*class).or_default().push(place);
    }
    let mut kept = vec![true; images.len()];
    for (class, mut places) in classes {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(class.into());
        places.shuffle(&mut random);
        places.truncate((places.len() / HELD_OUT).max(1).min(places.len() - 1));
        places.into_iter().for_each(|place| kept[place] = false);
    }
    let mut kept = kept.into_iter();
    images.into_iter().partition(|_| kept.next() == Some(true))
}
