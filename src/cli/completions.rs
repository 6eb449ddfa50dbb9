//! `sluice completions`.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Failure, print};

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  sluice completions bash > /etc/bash_completion.d/sluice
  sluice completions zsh > \"${fpath[1]}/_sluice\"")]
pub struct Arguments {
    /// For which shell
    shell: Shell,
}

pub fn completions(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "sluice", &mut script);
    print::out(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
