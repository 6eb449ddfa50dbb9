//! Mistakes of a configuration file, and how they are shown: file, line, column, the line and a caret.
//!
//! Knows nothing of what makes a mistake.

use std::fmt;
use std::ops::Range;

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError,
    MietteSpanContents, Severity, SourceCode, SourceSpan, SpanContents,
};

use super::mask::mask;

/// One thing that is wrong, or doubtful, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Bytes of the file.
    pub span: Range<usize>,
    pub message: String,
    pub help: Option<String>,
    pub severity: Weight,
}

/// Whether the file can be used in spite of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    Error,
    Warning,
}

impl Mistake {
    pub fn error(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            span,
            message: message.into(),
            help: None,
            severity: Weight::Error,
        }
    }

    pub fn warning(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            severity: Weight::Warning,
            ..Self::error(span, message)
        }
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// All mistakes of one file, in the file's order.
#[derive(Clone)]
pub struct Report {
    /// The file's name, as it was given.
    pub file: String,
    /// The file's text with its secrets masked, byte for byte as long as the original.
    text: String,
    pub mistakes: Vec<Mistake>,
}

/// How a report looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// For a terminal: colours and box characters.
    Graphical,
    /// ASCII, for files and pipes.
    Plain,
}

impl Report {
    pub fn new(file: &str, text: &str, mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by_key(|mistake| (mistake.span.start, mistake.severity));
        mistakes.dedup();
        let mut text = mask(text);
        // A caret needs a character to stand under, also at the end of the file.
        text.push('\n');
        Self {
            file: file.to_owned(),
            text,
            mistakes,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.mistakes.is_empty()
    }

    /// Whether the file cannot be used.
    pub fn has_errors(&self) -> bool {
        self.mistakes
            .iter()
            .any(|mistake| mistake.severity == Weight::Error)
    }

    /// Line and column of a mistake, both from 1; the column counts characters.
    pub fn position(&self, mistake: &Mistake) -> (usize, usize) {
        let before = self.text.get(..mistake.span.start).unwrap_or(&self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    }

    /// One after the other, each with its place, its line and a caret.
    pub fn render(&self, look: Look) -> String {
        let handler = match look {
            Look::Graphical => GraphicalReportHandler::new_themed(GraphicalTheme::unicode()),
            Look::Plain => GraphicalReportHandler::new_themed(GraphicalTheme::none()),
        }
        .with_links(false)
        .with_width(100);
        let mut out = String::new();
        for mistake in &self.mistakes {
            // Writing to a string does not fail.
            let _ = handler.render_report(
                &mut out,
                &Shown {
                    mistake,
                    report: self,
                },
            );
        }
        out
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.mistakes).finish()
    }
}

/// One line for each mistake: `file:line:column: what`.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            let (line, column) = self.position(mistake);
            let separator = if index == 0 { "" } else { "\n" };
            write!(
                f,
                "{separator}{}:{line}:{column}: {}",
                self.file, mistake.message
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

/// A mistake as miette wants it, and the one line of the file that it stands in.
#[derive(Debug)]
struct Shown<'a> {
    mistake: &'a Mistake,
    report: &'a Report,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.mistake.message)
    }
}

impl std::error::Error for Shown<'_> {}

impl Diagnostic for Shown<'_> {
    fn severity(&self) -> Option<Severity> {
        Some(match self.mistake.severity {
            Weight::Error => Severity::Error,
            Weight::Warning => Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = self.mistake.help.as_ref()?;
        Some(Box::new(help))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(self)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let text = &self.report.text;
        let start = self.mistake.span.start.min(text.len() - 1);
        // Of a value of several lines the first one is enough.
        let line = text[start..].find('\n').unwrap_or(1);
        let length = self.mistake.span.end.saturating_sub(start).min(line).max(1);
        let label = LabeledSpan::new(None, start, length);
        Some(Box::new(std::iter::once(label)))
    }
}

impl SourceCode for Shown<'_> {
    /// miette asks without context for the place itself, and with context for what to show.
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        _lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let text = &self.report.text;
        let (line, column) = self.report.position(self.mistake);
        let file = self.report.file.clone();
        let (start, end, column) = if lines_before == 0 {
            (span.offset(), span.offset() + span.len(), column - 1)
        } else {
            let start = text[..span.offset()].rfind('\n').map_or(0, |at| at + 1);
            let end = text[span.offset()..].find('\n');
            (start, end.map_or(text.len(), |at| at + span.offset()), 0)
        };
        Ok(Box::new(MietteSpanContents::new_named(
            file,
            &text.as_bytes()[start..end],
            (start, end - start).into(),
            line - 1,
            column,
            1,
        )))
    }
}
