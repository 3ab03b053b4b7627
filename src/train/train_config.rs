//! The settings of a training run except its data and augmentation, with defaults per method.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::encoder::ModelConfig;
use super::error::TrainError;
use super::image_set::ImageSet;
use super::methods::{Method, MethodConfig};
use super::setting::{number, require};
use crate::Contrast;

/// The settings of a run.
///
/// ```
/// use infonce::train::methods;
/// use infonce::train::trainer::TrainConfig;
/// for method in methods::TABLE {
///     let config = TrainConfig { epochs: 5, ..TrainConfig::of(method) };
///     assert!(config.validate().is_ok());
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig {
    /// The method with its own settings, which are written beside the others.
    #[serde(flatten)]
    pub method: MethodConfig,
    /// Seed of everything random.
    pub seed: u64,
    /// Passes over the training images.
    pub epochs: u64,
    /// Images per step.
    pub batch: usize,
    /// The loss, by its key in [`losses::TABLE`](crate::losses::TABLE).
    pub loss: String,
    /// τ of the loss.
    pub temperature: f64,
    /// D, the dimension of the embeddings that the loss sees.
    pub dim: usize,
    /// Hidden units of the projection head.
    pub hidden: usize,
    /// Channels after each convolution of the encoder; the last is the dimension of its features.
    pub widths: Vec<usize>,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Share of all steps over which the learning rate rises from 0.
    pub warmup: f64,
    /// Weight decay, per unit of learning rate.
    pub weight_decay: f64,
}

/// Allowed sizes of layers.
const SIZES: std::ops::RangeInclusive<usize> = 1..=4096;

impl TrainConfig {
    /// The defaults of a method.
    pub fn of(method: &Method) -> Self {
        Self {
            method: (method.settings)(),
            seed: 0,
            epochs: 20,
            batch: 128,
            loss: method.loss.to_owned(),
            temperature: method.temperature,
            dim: 64,
            hidden: 128,
            widths: vec![32, 64, 128],
            learning_rate: method.learning_rate,
            warmup: method.warmup,
            weight_decay: 1e-4,
        }
    }

    /// The loss at its temperature.
    ///
    /// # Errors
    /// [`TrainError::UnfitLoss`] when the method cannot train with it; [`TrainError::Loss`] when the
    /// temperature is out of its range.
    pub fn contrast(&self) -> Result<Contrast, TrainError> {
        let loss = self.method.method().loss(&self.loss)?;
        Ok((loss.at)(self.temperature as f32)?)
    }

    /// The learning rate of `step`, counted from 0, of `total` steps: a linear warm-up, then half a
    /// cosine down to zero (Loshchilov and Hutter 2017; Chen et al. 2020, section 2.2).
    pub fn rate_at(&self, step: u64, total: u64) -> f64 {
        let warmup = (self.warmup * total as f64).ceil() as u64;
        if step < warmup {
            return self.learning_rate * (step + 1) as f64 / warmup as f64;
        }
        let cosine_steps = total.saturating_sub(warmup).max(1);
        let progress = ((step - warmup) as f64 / cosine_steps as f64).min(1.0);
        self.learning_rate * (1.0 + (PI * progress).cos()) / 2.0
    }

    /// The model for images like those of `set`.
    pub fn model(&self, set: &ImageSet) -> ModelConfig {
        ModelConfig {
            height: set.height,
            width: set.width,
            channels: set.channels,
            widths: self.widths.clone(),
            hidden: self.hidden,
            dim: self.dim,
            prediction: self.method.method().prediction,
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// [`TrainError::Argument`] names the first that is outside its range.
    pub fn validate(&self) -> Result<(), TrainError> {
        require("epochs", self.epochs, "at least 1", self.epochs >= 1)?;
        require("batch", self.batch, "at least 2", self.batch >= 2)?;
        // Beyond these the scale 1/τ leaves the range of f32.
        let temperature = (1e-30..=1e30).contains(&self.temperature);
        let (rate, decay) = (self.learning_rate, self.weight_decay);
        let rises = rate.is_finite() && rate > 0.0;
        let share = (0.0..=1.0).contains(&self.warmup);
        let pulls = decay.is_finite() && decay >= 0.0;
        for (argument, given, allowed, holds) in [
            (
                "temperature",
                self.temperature,
                "between 1e-30 and 1e30",
                temperature,
            ),
            ("learning_rate", rate, "finite and greater than 0", rises),
            ("warmup", self.warmup, "between 0 and 1", share),
            ("weight_decay", decay, "finite and at least 0", pulls),
        ] {
            require(argument, number(given), allowed, holds)?;
        }
        self.contrast()?;
        for (argument, size) in [("dim", self.dim), ("hidden", self.hidden)] {
            require(argument, size, "between 1 and 4096", SIZES.contains(&size))?;
        }
        let given = format!("{:?}", self.widths);
        let layers = (1..=4).contains(&self.widths.len());
        require("widths", &given, "a list of 1 to 4 numbers", layers)?;
        let sizes = self.widths.iter().all(|width| SIZES.contains(width));
        require("widths", &given, "numbers between 1 and 4096", sizes)?;
        self.method.validate(self.batch, self.dim)
    }
}

#[cfg(test)]
mod tests {
    use toml::Table;

    use super::*;
    use crate::losses;
    use crate::train::methods;

    fn defaults(method: &str) -> TrainConfig {
        TrainConfig::of(Method::of(method).unwrap())
    }

    #[test]
    fn defaults_are_valid_and_survive_their_written_form() {
        for method in methods::TABLE {
            let config = TrainConfig::of(method);
            config.validate().unwrap();
            let text = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str(&text), Ok(config), "{text}");
        }
    }

    #[test]
    fn the_rate_rises_to_its_peak_and_falls_to_nothing() {
        let rates = |learning_rate, warmup, total| {
            let config = TrainConfig {
                learning_rate,
                warmup,
                ..defaults("simclr")
            };
            (0..=total)
                .map(|step| config.rate_at(step, total))
                .collect::<Vec<_>>()
        };
        let long = rates(0.4, 0.1, 100);
        assert_eq!((long[4], long[9], long[55]), (0.2, 0.4, 0.2));
        assert!(long[..10].is_sorted() && long[10..].is_sorted_by(|a, b| a >= b));
        assert!(long[..100].iter().all(|&rate| rate > 0.0) && long[100] < 1e-12);
        for warmup in [0.0, 1.0] {
            assert_eq!(rates(0.3, warmup, 1)[0], 0.3);
        }
    }

    #[test]
    fn a_setting_out_of_range_is_named() {
        for (method, expected, change) in [
            ("moco", "`epochs` is 0", "epochs = 0"),
            ("moco", "`batch` is 1", "batch = 1"),
            ("moco", "`batch` is 7", "batch = 7"),
            ("moco", "`temperature` is 0", "temperature = 0.0"),
            ("moco", "`temperature` is NaN", "temperature = nan"),
            ("moco", "`temperature` is 1e31", "temperature = 1e31"),
            ("moco", "`dim` is 0", "dim = 0"),
            ("moco", "`hidden` is 4097", "hidden = 4097"),
            ("moco", "`widths` is []", "widths = []"),
            ("moco", "`widths` is [8, 0]", "widths = [8, 0]"),
            ("moco", "`learning_rate` is inf", "learning_rate = inf"),
            ("moco", "`warmup` is 1.5", "warmup = 1.5"),
            ("moco", "`weight_decay` is -1", "weight_decay = -1.0"),
            ("moco", "`queue` is 0", "queue = 0"),
            ("moco", "`queue` is 16777216", "queue = 16777216\ndim = 128"),
            ("moco", "`momentum` is 1.1", "momentum = 1.1"),
            ("moco", "`norm_groups` is 0", "norm_groups = 0"),
            ("mocov3", "`momentum` is -0.1", "momentum = -0.1"),
            ("instdisc", "`bank_momentum` is 2", "bank_momentum = 2.0"),
            ("instdisc", "`views` is 3", "views = 3"),
            ("pcl", "`queue` is 0", "queue = 0"),
            ("pcl", "`cluster_sizes` is []", "cluster_sizes = []"),
            ("pcl", "`cluster_sizes` is [9, 0]", "cluster_sizes = [9, 0]"),
            ("pcl", "`cluster_warmup` is 1.5", "cluster_warmup = 1.5"),
        ] {
            let mut settings = Table::try_from(defaults(method)).unwrap();
            settings.extend(change.parse::<Table>().unwrap());
            let config: TrainConfig = settings.try_into().unwrap();
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    /// Every method beside every loss: it has it, or says why not and which it has.
    #[test]
    fn a_loss_that_a_method_cannot_have_is_refused_with_why() {
        let mut found = Vec::new();
        for method in methods::TABLE {
            for loss in losses::TABLE {
                let config = TrainConfig {
                    loss: loss.key.to_owned(),
                    ..TrainConfig::of(method)
                };
                match config.validate() {
                    Ok(()) => found.push((method.key, loss.key)),
                    Err(error) => {
                        let message = error.to_string();
                        let given = format!("`loss` is {}: it", loss.key);
                        let takes = format!("; {} takes {}", method.key, method.loss_keys());
                        assert!(message.starts_with(&given), "{message}");
                        assert!(message.ends_with(&takes), "{message}");
                    }
                }
            }
        }
        let of = |method| {
            let of_method = found.iter().filter(|(found, _)| *found == method);
            of_method.map(|(_, loss)| *loss).collect::<Vec<_>>()
        };
        let simclr = "nt_xent info_nce clip dcl dclw rince debiased additive_margin supcon \
                      supcon_in kcl hard mnr graphcl declutr n_pairs";
        assert_eq!(of("simclr"), Vec::from_iter(simclr.split(' ')));
        for (method, loss) in [
            ("moco", "moco"),
            ("mocov3", "moco_v3"),
            ("instdisc", "inst_disc"),
            ("pcl", "pcl"),
        ] {
            assert_eq!(of(method), [loss]);
        }
    }
}
