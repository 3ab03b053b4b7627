//! Random numbers from a seed, the same on every machine: SplitMix64 (Steele, Lea and Flood 2014).

/// A generator of 64-bit numbers.
#[derive(Debug, Clone)]
pub(crate) struct SplitMix(u64);

impl SplitMix {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The generator of these numbers, independent of those of all others.
    pub fn of(seed: u64, numbers: [u64; 2]) -> Self {
        let next = |state, number| Self(state).draw() ^ number;
        Self(numbers.into_iter().fold(seed, next))
    }

    /// A number below `bound`, which is at least 1; all are equally likely (Lemire 2019).
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        loop {
            let product = u128::from(self.draw()) * u128::from(bound);
            if product as u64 >= bound.wrapping_neg() % bound {
                return (product >> 64) as usize;
            }
        }
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number between −1 and 1, never 0: an odd multiple of 2⁻⁵³.
    pub fn sign_and_size(&mut self) -> f64 {
        let odd = 2 * (self.draw() >> 11) as i64 + 1;
        (odd - (1 << 53)) as f64 * 2f64.powi(-53)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_published_generator() {
        // The first outputs of SplitMix64 from the seed 1234567, as Rosetta Code lists them.
        let mut random = SplitMix::new(1_234_567);
        let first = [(); 3].map(|()| random.draw());
        assert_eq!(
            first,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn sizes_are_spread_over_both_signs() {
        let mut random = SplitMix::new(3);
        let drawn: Vec<f64> = (0..10_000).map(|_| random.sign_and_size()).collect();
        assert!(drawn.iter().all(|x| x.abs() < 1.0 && *x != 0.0));
        // The variance of a uniform number between −1 and 1 is 1/3.
        let mean = drawn.iter().sum::<f64>() / 1e4;
        let variance = drawn.iter().map(|x| x * x).sum::<f64>() / 1e4;
        assert!(mean.abs() < 0.03 && (variance - 1.0 / 3.0).abs() < 0.02);
    }
}
