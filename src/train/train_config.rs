//! Every setting of a training run but the data and its augmentation, with defaults per method.

use serde::{Deserialize, Serialize};

use super::data::ImageSet;
use super::encoder::ModelConfig;
use super::trainer::TrainError;
use crate::Contrast;
use crate::losses::{self, Loss};

/// The settings of a run.
///
/// ```
/// use infonce::train::trainer::TrainConfig;
/// let config = TrainConfig { epochs: 5, ..TrainConfig::moco() };
/// assert!(config.validate().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig {
    /// The method and what only it has; its fields stand beside the others when written.
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
    /// Learning rate at its highest.
    pub learning_rate: f64,
    /// Share of all steps in which the learning rate rises to it.
    pub warmup: f64,
    /// Pull of the weights towards zero, per unit of learning rate.
    pub weight_decay: f64,
}

/// A method with the settings that no other has.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum MethodConfig {
    /// Chen et al. 2020.
    Simclr,
    /// He et al. 2020.
    Moco {
        /// Keys in the queue, which losses without one leave empty.
        queue: usize,
        /// m, of the key encoder's update.
        momentum: f64,
        /// Whether m stays or goes to 1.
        momentum_course: MomentumCourse,
        /// Groups of a batch that are normalised apart, against leakage.
        norm_groups: usize,
    },
}

impl MethodConfig {
    /// The losses that it can train with: those on one matrix of both views, or those whose candidates
    /// are keys without a gradient.
    pub fn losses(&self) -> impl Iterator<Item = &'static Loss> {
        let one_matrix = *self == Self::Simclr;
        losses::TABLE.iter().filter(move |loss| {
            let contrast = (loss.at)(loss.temperature);
            contrast.is_ok_and(|contrast| match one_matrix {
                true => contrast.is_shared(),
                false => !contrast.is_shared() && !contrast.has_dk(),
            })
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Simclr => "simclr",
            Self::Moco { .. } => "moco",
        }
    }
}

/// How the momentum of the key encoder moves over training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MomentumCourse {
    /// The same at every step (He et al. 2020).
    Constant,
    /// Along a cosine to 1 at the last step (Grill et al. 2020).
    Cosine,
}

/// Sizes of layers.
const SIZES: std::ops::RangeInclusive<usize> = 1..=4096;
const SIZES_IN_WORDS: &str = "between 1 and 4096";

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
                method: self.method.name(),
                fits: keys(self.method.losses()),
            }),
        }
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
        require(
            "temperature",
            number(self.temperature),
            "between 1e-30 and 1e30",
            temperature,
        )?;
        self.contrast()?;
        require("dim", self.dim, SIZES_IN_WORDS, SIZES.contains(&self.dim))?;
        require(
            "hidden",
            self.hidden,
            SIZES_IN_WORDS,
            SIZES.contains(&self.hidden),
        )?;
        self.validate_widths()?;
        let rate = self.learning_rate.is_finite() && self.learning_rate > 0.0;
        require(
            "learning_rate",
            number(self.learning_rate),
            "finite and greater than 0",
            rate,
        )?;
        let share = (0.0..=1.0).contains(&self.warmup);
        require("warmup", number(self.warmup), "between 0 and 1", share)?;
        let decay = self.weight_decay.is_finite() && self.weight_decay >= 0.0;
        require(
            "weight_decay",
            number(self.weight_decay),
            "finite and at least 0",
            decay,
        )?;
        self.validate_method()
    }

    fn validate_widths(&self) -> Result<(), TrainError> {
        let given = format!("{:?}", self.widths);
        let layers = (1..=4).contains(&self.widths.len());
        require("widths", &given, "a list of 1 to 4 numbers", layers)?;
        let sizes = self.widths.iter().all(|width| SIZES.contains(width));
        require("widths", &given, "numbers between 1 and 4096", sizes)
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

/// The keys of losses, in a line.
pub(super) fn keys(losses: impl Iterator<Item = &'static Loss>) -> String {
    losses.map(|loss| loss.key).collect::<Vec<_>>().join(", ")
}

/// A number as people write it: with an exponent where it would take many digits.
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
    use super::*;

    #[test]
    fn defaults_are_valid_and_survive_their_written_form() {
        for config in [TrainConfig::simclr(), TrainConfig::moco()] {
            config.validate().unwrap();
            let text = toml::to_string(&config).unwrap();
            assert_eq!(
                toml::from_str::<TrainConfig>(&text).unwrap(),
                config,
                "{text}"
            );
        }
    }

    #[test]
    fn a_setting_out_of_range_is_named() {
        type Change = fn(&mut TrainConfig);
        fn moco(queue: usize, momentum: f64, norm_groups: usize) -> MethodConfig {
            let momentum_course = MomentumCourse::Constant;
            MethodConfig::Moco {
                queue,
                momentum,
                momentum_course,
                norm_groups,
            }
        }
        let broken: [(&str, Change); 18] = [
            ("`epochs` is 0", |c| c.epochs = 0),
            ("`batch` is 1", |c| c.batch = 1),
            ("`batch` is 7", |c| c.batch = 7),
            ("`temperature` is 0", |c| c.temperature = 0.0),
            ("`temperature` is NaN", |c| c.temperature = f64::NAN),
            ("`temperature` is 1e31", |c| c.temperature = 1e31),
            ("`loss` is clip; moco takes moco, moco_v3", |c| {
                c.loss = "clip".to_owned()
            }),
            ("`loss` is nt_xent; moco takes", |c| {
                c.loss = TrainConfig::simclr().loss
            }),
            ("`dim` is 0", |c| c.dim = 0),
            ("`widths` is []", |c| c.widths.clear()),
            ("`widths` is [8, 0]", |c| c.widths = vec![8, 0]),
            ("`learning_rate` is inf", |c| {
                c.learning_rate = f64::INFINITY
            }),
            ("`warmup` is 1.5", |c| c.warmup = 1.5),
            ("`weight_decay` is -1", |c| c.weight_decay = -1.0),
            ("`queue` is 0", |c| c.method = moco(0, 0.9, 4)),
            ("`queue` is 16777216", |c| c.method = moco(1 << 24, 0.9, 4)),
            ("`momentum` is 1.1", |c| c.method = moco(9, 1.1, 4)),
            ("`norm_groups` is 0", |c| c.method = moco(9, 0.9, 0)),
        ];
        for (expected, change) in broken {
            let mut config = TrainConfig::moco();
            config.dim = 128;
            change(&mut config);
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
