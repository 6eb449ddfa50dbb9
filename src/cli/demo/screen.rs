//! Progress, on standard error: a bar on a terminal, a line now and then elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::print;

const LINE_EVERY: Duration = Duration::from_secs(2);

pub struct Screen {
    /// `None`: nobody watches a terminal.
    bar: Option<ProgressBar>,
    line_at: Instant,
}

impl Screen {
    /// `expected`: how many messages will be sent.
    pub fn new(expected: u64) -> Self {
        let bar = print::errors_are_read_by_people().then(|| {
            let bar = ProgressBar::with_draw_target(Some(expected), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:30} {elapsed:>4} {msg}");
            match style {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Self {
            bar,
            line_at: Instant::now(),
        }
    }

    /// A line that stays.
    pub fn say(&mut self, line: &str) {
        self.line_at = Instant::now();
        let say = || print::error(&format!("{line}\n"));
        match &self.bar {
            Some(bar) => bar.suspend(say),
            None => say(),
        }
    }

    /// How far it is.
    pub fn show(&mut self, sent: u64, text: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(sent);
                bar.set_message(text.to_owned());
            }
            None if self.line_at.elapsed() >= LINE_EVERY => {
                self.line_at = Instant::now();
                print::error(&format!("{text}\n"));
            }
            None => {}
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
