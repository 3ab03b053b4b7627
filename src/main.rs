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
    /// Compares an engine with the float64 reference on fresh random inputs of many shapes.
    Verify(cli::VerifyArguments),
    /// Trains an encoder on images, evaluates it on held-out ones and writes a report.
    #[cfg(feature = "train")]
    Train(Box<infonce::train::TrainArgs>),
    /// Trains an encoder on images; not in this build, which lacks the feature `train`.
    #[cfg(not(feature = "train"))]
    #[command(disable_help_flag = true)]
    Train {
        /// The trainer's arguments, ignored.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        _arguments: Vec<std::ffi::OsString>,
    },
    /// Lists the engines that work on this machine, and why the others do not.
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
