//! Records of runs on cards. Assembles a record from the files of the packed runner, merges two, prints one, and writes
//! the tables of the newest records and of kernels/list.h into README.md, docs/hardware.md and kernels/README.md.
//!
//! ```text
//! cargo run -p records -- assemble RUN     # prints the record of the folder RUN
//! cargo run -p records -- merge A B        # prints one record of two calls
//! cargo run -p records -- table RECORD
//! cargo run -p records -- readme           # rewrites the documents' tables and plots
//! cargo run -p records --features cuda -- readme   # and the registers in kernels/README.md, from nvcc's report
//! ```

mod assemble;
mod kernels;
#[path = "../../../build/list.rs"]
#[expect(dead_code, reason = "what the build script writes of it")]
mod list;
mod merge;
mod peers;
mod plot;
mod readme;
#[cfg(test)]
mod samples;
#[path = "../../cuda/schema.rs"]
mod schema;
#[path = "../../cuda/table.rs"]
mod table;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints the record of a run as JSON.
    Assemble {
        /// The folder that the run wrote.
        run: PathBuf,
    },
    /// Prints one record of two calls of the packed runner: of the same commit, on the same card.
    Merge { first: PathBuf, second: PathBuf },
    /// Prints a record for people to read.
    Table {
        /// A record.
        record: PathBuf,
    },
    /// Writes tables and plots of the records and the list of kernels into README.md, docs/ and kernels/README.md.
    Readme,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Assemble { run } => assemble::record(&run).and_then(|record| text::json(&record)),
        Command::Merge { first, second } => text::read(&first)
            .and_then(|first| merge::merged(first, text::read(&second)?))
            .and_then(|record| text::json(&record)),
        Command::Table { record } => text::read(&record).map(|record| text::describe(&record)),
        Command::Readme => readme::rewrite(),
    };
    match outcome {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}
