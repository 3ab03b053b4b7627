//! The settings of a training run except its data and augmentation, with defaults per method.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::encoder::ModelConfig;
use super::error::TrainError;
use super::image_set::ImageSet;
use crate::Contrast;
use crate::losses::{self, Keys, Layout, Loss};

/// The settings of a run.
///
/// ```
/// use infonce::train::trainer::TrainConfig;
/// let config = TrainConfig { epochs: 5, ..TrainConfig::moco() };
/// assert!(config.validate().is_ok());
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
    /// The loss, by its key in [`losses::TABLE`].
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

/// A method with its own settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum MethodConfig {
    /// Chen et al. 2020.
    Simclr,
    /// He et al. 2020.
    Moco {
        /// Keys in the queue; losses without a queue ignore it.
        queue: usize,
        /// m of the key encoder's update.
        momentum: f64,
        /// How m changes over training.
        momentum_course: MomentumCourse,
        /// Groups of a batch that are normalised separately, so that no statistics reveal the
        /// positive.
        norm_groups: usize,
    },
}

impl MethodConfig {
    /// The losses that the method can train with. SimCLR takes those on one matrix of both views,
    /// MoCo those whose candidates are keys of its batches, without a gradient.
    pub fn losses(&self) -> impl Iterator<Item = &'static Loss> {
        let one_matrix = *self == Self::Simclr;
        losses::TABLE.iter().filter(move |loss| {
            let contrast = (loss.at)(loss.temperature);
            contrast.is_ok_and(|contrast| match one_matrix {
                true => contrast.layout() == Layout::Shared,
                false => !contrast.is_shared() && contrast.description().keys == Keys::Constant,
            })
        })
    }

    /// Its name in `config.toml` and on the command line.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Simclr => "simclr",
            Self::Moco { .. } => "moco",
        }
    }

    /// Its name in papers.
    pub fn title(&self) -> &'static str {
        match self {
            Self::Simclr => "SimCLR",
            Self::Moco { .. } => "MoCo",
        }
    }
}

/// How the momentum of the key encoder changes over training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MomentumCourse {
    /// The same at every step (He et al. 2020).
    Constant,
    /// Along a cosine to 1 at the last step (Grill et al. 2020).
    Cosine,
}

/// Allowed sizes of layers.
const SIZES: std::ops::RangeInclusive<usize> = 1..=4096;

impl TrainConfig {
    /// The defaults of SimCLR.
    pub fn simclr() -> Self {
        Self {
            method: MethodConfig::Simclr,
            seed: 0,
            epochs: 20,
            batch: 128,
            loss: "nt_xent".to_owned(),
            temperature: 0.3,
            dim: 64,
            hidden: 128,
            widths: vec![32, 64, 128],
            learning_rate: 0.3,
            warmup: 0.05,
            weight_decay: 1e-4,
        }
    }

    /// The defaults of MoCo.
    pub fn moco() -> Self {
        Self {
            method: MethodConfig::Moco {
                queue: 1024,
                momentum: 0.99,
                momentum_course: MomentumCourse::Constant,
                norm_groups: 4,
            },
            loss: "moco".to_owned(),
            ..Self::simclr()
        }
    }

    /// The loss at its temperature.
    ///
    /// # Errors
    /// [`TrainError::UnfitLoss`] when the method cannot train with it; [`TrainError::Loss`] when the
    /// temperature is out of its range.
    pub fn contrast(&self) -> Result<Contrast, TrainError> {
        match self.method.losses().find(|loss| loss.key == self.loss) {
            Some(loss) => Ok((loss.at)(self.temperature as f32)?),
            None => Err(TrainError::UnfitLoss {
                given: self.loss.clone(),
                method: self.method.key(),
                fits: keys(self.method.losses()),
            }),
        }
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
        self.validate_method()
    }

    fn validate_method(&self) -> Result<(), TrainError> {
        let MethodConfig::Moco {
            queue,
            momentum,
            norm_groups,
            ..
        } = self.method
        else {
            return Ok(());
        };
        let keys = (1..=1 << 24).contains(&queue);
        require("queue", queue, "between 1 and 16777216", keys)?;
        let numbers = queue.saturating_mul(self.dim) <= 1 << 30;
        require("queue", queue, "at most 2^30 / `dim`: 4 GiB", numbers)?;
        let share = (0.0..=1.0).contains(&momentum);
        require("momentum", number(momentum), "between 0 and 1", share)?;
        require("norm_groups", norm_groups, "at least 1", norm_groups >= 1)?;
        let pairs = self.batch / 2 >= norm_groups;
        require("batch", self.batch, "at least twice `norm_groups`", pairs)
    }
}

/// The keys of losses, separated by commas.
pub(super) fn keys(losses: impl Iterator<Item = &'static Loss>) -> String {
    losses.map(|loss| loss.key).collect::<Vec<_>>().join(", ")
}

/// The number in plain notation, or with an exponent where that takes many digits.
pub(super) fn number(value: f64) -> String {
    if value == 0.0 || (1e-4..1e7).contains(&value.abs()) {
        value.to_string()
    } else {
        format!("{value:e}")
    }
}

fn require(
    argument: &'static str,
    given: impl ToString,
    allowed: &'static str,
    holds: bool,
) -> Result<(), TrainError> {
    if holds {
        return Ok(());
    }
    Err(TrainError::Argument {
        argument,
        given: given.to_string(),
        allowed,
    })
}

#[cfg(test)]
mod tests {
    use toml::Table;

    use super::*;

    #[test]
    fn defaults_are_valid_and_survive_their_written_form() {
        for config in [TrainConfig::simclr(), TrainConfig::moco()] {
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
                ..TrainConfig::simclr()
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
        for (expected, change) in [
            ("`epochs` is 0", "epochs = 0"),
            ("`batch` is 1", "batch = 1"),
            ("`batch` is 7", "batch = 7"),
            ("`temperature` is 0", "temperature = 0.0"),
            ("`temperature` is NaN", "temperature = nan"),
            ("`temperature` is 1e31", "temperature = 1e31"),
            ("`loss` is clip; moco takes moco, moco_v3", "loss = 'clip'"),
            ("`loss` is nt_xent; moco takes", "loss = 'nt_xent'"),
            ("`dim` is 0", "dim = 0"),
            ("`hidden` is 4097", "hidden = 4097"),
            ("`widths` is []", "widths = []"),
            ("`widths` is [8, 0]", "widths = [8, 0]"),
            ("`learning_rate` is inf", "learning_rate = inf"),
            ("`warmup` is 1.5", "warmup = 1.5"),
            ("`weight_decay` is -1", "weight_decay = -1.0"),
            ("`queue` is 0", "queue = 0"),
            ("`queue` is 16777216", "queue = 16777216\ndim = 128"),
            ("`momentum` is 1.1", "momentum = 1.1"),
            ("`norm_groups` is 0", "norm_groups = 0"),
        ] {
            let mut settings = Table::try_from(TrainConfig::moco()).unwrap();
            settings.extend(change.parse::<Table>().unwrap());
            let config: TrainConfig = settings.try_into().unwrap();
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
