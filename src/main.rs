//! The command `infonce`: parses its arguments and calls the subcommand.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod cli;

/// Contrastive-learning losses and their gradients without the similarity matrix.
#[derive(Parser)]
#[command(name = "infonce", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Holds an engine against the float64 reference on fresh random inputs of hard shapes.
    Verify(cli::VerifyArguments),
    /// Trains an encoder on images, evaluates it on held-out ones and writes a report.
    #[cfg(feature = "train")]
    Train(Box<infonce::train::TrainArgs>),
    /// Trains an encoder on images; not in this build, which lacks the feature `train`.
    #[cfg(not(feature = "train"))]
    #[command(disable_help_flag = true)]
    Train {
        /// Whatever the trainer would take.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        _arguments: Vec<std::ffi::OsString>,
    },
    /// Says which engines are here and why the others are not.
    Info,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Verify(arguments) => cli::verify(&arguments),
        #[cfg(feature = "train")]
        Command::Train(arguments) => infonce::train::run(&arguments),
        #[cfg(not(feature = "train"))]
        Command::Train { .. } => cli::train_is_not_built(),
        Command::Info => cli::info(),
    }
}
