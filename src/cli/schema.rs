//! `sluice schema`.

use std::process::ExitCode;

use super::{Failure, print};
use crate::config;

pub fn schema() -> Result<ExitCode, Failure> {
    print::json(&config::json_schema())?;
    Ok(ExitCode::SUCCESS)
}
