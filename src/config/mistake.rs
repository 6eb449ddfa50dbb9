//! Mistakes of a configuration file, and how they are shown: file, line, column, the line and a caret.
//!
//! Owns the masking of secrets that stand in the shown line. Knows nothing of what makes a mistake.

use std::fmt;
use std::ops::Range;

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError,
    MietteSpanContents, Severity, SourceCode, SourceSpan, SpanContents,
};

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

/// Words in a key's name that say that its value is a secret.
const SECRET_WORDS: [&str; 6] = ["pass", "secret", "token", "pwd", "credential", "auth"];

/// Whether a key of that name holds a secret, also when the name is misspelled.
pub fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let misspelled = |part: &str| {
        let distance = |word| strsim::damerau_levenshtein(part, word);
        distance("password") <= 3 || distance("token") <= 1 || distance("secret") <= 2
    };
    !key.ends_with("_file")
        && (SECRET_WORDS.iter().any(|word| key.contains(word))
            || key.split(['.', '_', '-']).any(misspelled))
}

/// The text with every secret replaced by asterisks, byte for byte as long as before.
///
/// Works on the text, not on the tree: a file that cannot be parsed is shown, too.
fn mask(text: &str) -> String {
    let mut out = text.as_bytes().to_vec();
    let secrets = passwords_of_urls(text)
        .chain(values_of_secret_keys(text))
        .filter(|secret| !names_a_variable(&text[secret.clone()]));
    for byte in secrets.flat_map(|secret| text[secret.clone()].bytes().zip(secret)) {
        match byte {
            // The lines stay where they are.
            (b'\n', _) => {}
            (_, at) => out[at] = b'*',
        }
    }
    String::from_utf8(out).unwrap_or_default()
}

/// `${VAR}` is no secret, but `${VAR:-default}` may hold one.
fn names_a_variable(text: &str) -> bool {
    let name = text
        .strip_prefix("${")
        .and_then(|text| text.strip_suffix('}'));
    name.is_some_and(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

/// The password of every `scheme://user:password@host`, also of one that is none: without its scheme, with a
/// blank in it.
fn passwords_of_urls(text: &str) -> impl Iterator<Item = Range<usize>> {
    strings(text).filter_map(|string| {
        let url = &text[string.clone()];
        let host = url.rfind('@')?;
        let user = url[..host].find("://").map_or(0, |at| at + "://".len());
        let password = user + url[user..host].find(':')? + 1;
        Some(string.start + password..string.start + host)
    })
}

/// What stands between quotes or on a line of its own, and what stands between those.
fn strings(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut escaped = false;
    let ends = text.match_indices(move |c: char| {
        let ends = matches!(c, '\n' | '\'') || c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    let mut start = 0;
    let ends = ends.map(|(at, _)| at).chain([text.len()]);
    ends.map(move |end| {
        let string = start..end;
        start = end + 1;
        string
    })
}

/// What stands behind `password =`, whether it is quoted or not.
fn values_of_secret_keys(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices('=').filter_map(|(at, _)| {
        let key = text[..at].trim_end_matches([' ', '\t', '"', '\'']);
        let key = key
            .rsplit(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.')))
            .next()
            .unwrap_or(key);
        if !is_secret(key) {
            return None;
        }
        let value = text[at + 1..].trim_start_matches([' ', '\t']);
        let start = text.len() - value.len();
        let quote = ["\"\"\"", "\'\'\'", "\"", "\'"]
            .into_iter()
            .find(|quote| value.starts_with(quote));
        let Some(quote) = quote else {
            let end = value.find('\n').unwrap_or(value.len());
            return Some(start..start + end);
        };
        let inner = &value[quote.len()..];
        let line = inner.find('\n').unwrap_or(inner.len());
        let end = match (end_of_quoted(inner, quote), quote.len()) {
            (Some(end), 3) => end,
            (None, 3) => inner.len(),
            (Some(end), _) => end.min(line),
            (None, _) => line,
        };
        let start = start + quote.len();
        Some(start..start + end)
    })
}

/// Where the closing quote is; one that is escaped does not close.
fn end_of_quoted(inner: &str, quote: &str) -> Option<usize> {
    let closing = |(at, _): &(usize, &str)| {
        let escapes = inner[..*at].bytes().rev().take_while(|byte| *byte == b'\\');
        quote.starts_with('\'') || escapes.count().is_multiple_of(2)
    };
    inner.match_indices(quote).find(closing).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_however_they_are_written() {
        for (text, masked) in [
            ("password = \"abc\" # x", "password = \"***\" # x"),
            ("password=\"a\\\"c\"", "password=\"****\""),
            ("\"sasl.password\" = 'a\\'", "\"sasl.password\" = '**'"),
            ("token = \"abc", "token = \"***"),
            ("token = abc\nx = 1", "token = ***\nx = 1"),
            ("pasword = \"é\"", "pasword = \"**\""),
            (
                "password = \"\"\"a\nb\"\"\" x",
                "password = \"\"\"*\n*\"\"\" x",
            ),
            (
                "{ user = \"u\", key_pass = \"p\" }",
                "{ user = \"u\", key_pass = \"*\" }",
            ),
            ("password_file = \"abc\"", "password_file = \"abc\""),
            (
                "[\"amqp://u:p@h:1\", 'x://h:2']",
                "[\"amqp://u:*@h:1\", 'x://h:2']",
            ),
            ("url = x://u:p@q@h", "url = x://u:***@h"),
            ("uris = ['u:p@h', \"@x\"]", "uris = ['u:*@h', \"@x\"]"),
            ("url = \"x://u v:p q@h\"", "url = \"x://u v:***@h\""),
            ("url = \"x://u:p\\\"q@h\"", "url = \"x://u:****@h\""),
            ("url = \"x://u:${P}@h\"", "url = \"x://u:${P}@h\""),
            ("token = '${T}'", "token = '${T}'"),
            ("token = '${T:-a}'", "token = '*******'"),
            ("queue = \"abc\"", "queue = \"abc\""),
            ("©token = \"abc\"", "©token = \"***\""),
        ] {
            assert_eq!(mask(text), masked);
        }
    }
}
