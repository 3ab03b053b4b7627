//! The arguments of `infonce train`.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, RangedU64ValueParser, TypedValueParser};
use clap::{Args, value_parser};
use serde::Serialize;

use super::data::DataSource;
use super::engine::EngineName;
use super::methods::{self, Method};

/// The arguments of `infonce train`. `--config` supplies what they leave out, and defaults supply
/// the rest. Arguments that `config.toml` has too are serialised under its keys.
#[derive(Args, Clone, Debug, Serialize)]
#[command(after_help = EXIT_CODES)]
pub struct TrainArgs {
    /// The training method.
    #[arg(value_parser = methods())]
    #[serde(skip)]
    pub method: &'static Method,
    /// Images: demo, folder:DIR, idx:DIR, cifar10:DIR, cifar100:DIR, npy:IMAGES.npy; --help says
    /// what each takes [default: demo].
    #[arg(long, value_name = "SOURCE", long_help = SOURCES)]
    pub data: Option<DataSource>,
    /// Leave out image files of a folder that cannot be read or decoded, and count them.
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skip_unreadable: bool,
    /// Passes over the training images.
    #[arg(long, value_name = "E", value_parser = whole())]
    pub epochs: Option<u64>,
    /// Images per step.
    #[arg(long, value_name = "B", value_parser = whole())]
    pub batch: Option<u64>,
    #[arg(long, value_name = "KEY", help = losses_help())]
    pub loss: Option<String>,
    /// Temperature of the loss.
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temperature: Option<f64>,
    /// Dimension of the embeddings that the loss sees.
    #[arg(long, value_name = "D", value_parser = whole())]
    pub dim: Option<u64>,
    /// Learning rate at its highest.
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    #[serde(rename = "learning_rate")]
    pub lr: Option<f64>,
    #[arg(long, value_name = "K", value_parser = whole(), help = of("Keys in the queue", "queue"))]
    pub queue: Option<u64>,
    #[arg(long, value_name = "M", allow_negative_numbers = true,
        help = of("Momentum of the key encoder", "momentum"))]
    pub momentum: Option<f64>,
    /// What computes: cuda, cpu, or auto, which is cuda where available [default: auto].
    #[arg(long, value_enum, value_name = "ENGINE", hide_possible_values = true)]
    pub engine: Option<EngineName>,
    /// Seed of everything random.
    #[arg(long, value_name = "S", value_parser = whole())]
    pub seed: Option<u64>,
    /// Folder for the run's files, new or empty [default: runs/METHOD-DATA-SEED].
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub out: Option<PathBuf>,
    /// Continue the run that left this checkpoint.safetensors; --config with its config.toml gives
    /// the same settings.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub resume: Option<PathBuf>,
    /// A file like the config.toml of an earlier run; options on the command line override it.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Exit with code 4 unless held-out kNN ends at least this many percentage points above both
    /// baselines.
    #[arg(long, value_name = "POINTS")]
    #[serde(skip)]
    pub require_improvement: Option<f64>,
}

/// The rows of the table of methods, by their keys.
fn methods() -> impl TypedValueParser<Value = &'static Method> {
    let row = |method: &Method| {
        let Method { help, source, .. } = method;
        PossibleValue::new(method.key).help(format!("{help} ({source})"))
    };
    let keys = PossibleValuesParser::new(methods::TABLE.iter().map(row));
    keys.try_map(|key| Method::of(&key).ok_or("there is no such method"))
}

fn losses_help() -> String {
    let of_method = |method: &Method| {
        let (keys, loss) = (method.loss_keys(), method.loss);
        match keys == loss {
            true => format!("for {} {loss}", method.key),
            false => format!("for {} {keys} [default: {loss}]", method.key),
        }
    };
    let all: Vec<_> = methods::TABLE.iter().map(of_method).collect();
    format!("Loss: {}", all.join("; "))
}

/// The help of an option that only some methods have.
fn of(help: &str, setting: &str) -> String {
    format!("{help} ({})", Method::with_setting(setting))
}

/// Whole numbers that TOML can hold.
fn whole() -> RangedU64ValueParser {
    value_parser!(u64).range(..=i64::MAX as u64)
}

const SOURCES: &str = "Images [default: demo]:
  demo                  ten classes of textures, drawn by the program
  folder:DIR            PNG, JPEG, GIF, WebP, BMP and TIFF files at any depth: a folder for each
                        class, or none, and then no labels; DIR/train with DIR/test or DIR/val keeps
                        that division
  idx:DIR               MNIST's four files, with or without .gz
  cifar10:DIR           CIFAR-10's binary version
  cifar100:DIR          CIFAR-100's binary version with its fine labels
  cifar100-coarse:DIR   the same with its coarse labels
  npy:IMAGES.npy[,LABELS.npy]
                        NumPy's arrays: uint8, N x H x W or N x H x W x C with C of 1 or 3; integer
                        labels
  npy:DIR               the same as x_train.npy, y_train.npy, x_test.npy and y_test.npy, or
                        train_images.npy, train_labels.npy and so on; labels may be absent
Where files have no division, one image in five of each class is held out, at least one of two.
Without labels the report has no kNN and no linear probe; all else is the same.";

const EXIT_CODES: &str = "Exit codes:
  0    the run finished
  1    a file could not be read or written
  2    an argument, the configuration or the data is not what it should be, or the engine asked for
       is not available
  3    the loss is not a finite number
  4    --require-improvement was not reached
  130  interrupted (Ctrl-C), after a checkpoint";
