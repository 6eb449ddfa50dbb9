//! A user's statement: which parameters it names, and what it must not be. Pure.
//!
//! Knows just enough of the two SQL dialects to tell code from what is quoted: strings, identifiers,
//! comments, dollar quotes, casts. Invariant: what stands between two parameters is passed on byte for byte.

/// Whose SQL it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Postgres,
    Sqlite,
}

/// What a statement is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Only looks: its rows are counted.
    Match,
    /// Makes the effect.
    Apply,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Match => "match",
            Self::Apply => "apply",
        }
    }

    /// With what a statement of this role may begin; a list of what is allowed, because what ends a
    /// transaction or changes a session has too many names.
    fn first_words(self, dialect: Dialect) -> &'static [&'static str] {
        match (self, dialect) {
            (Self::Match, Dialect::Postgres) => &["SELECT", "WITH", "VALUES", "TABLE"],
            (Self::Match, Dialect::Sqlite) => &["SELECT", "WITH", "VALUES"],
            (Self::Apply, Dialect::Postgres) => &[
                "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "SELECT", "CALL",
            ],
            (Self::Apply, Dialect::Sqlite) => {
                &["INSERT", "UPDATE", "DELETE", "REPLACE", "WITH", "SELECT"]
            }
        }
    }
}

/// Statements that begin or end a transaction, in either dialect.
const TRANSACTION_CONTROL: [&str; 9] = [
    "BEGIN",
    "START",
    "COMMIT",
    "END",
    "ROLLBACK",
    "ABORT",
    "SAVEPOINT",
    "RELEASE",
    "PREPARE",
];

/// A statement whose parameters are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub role: Role,
    pieces: Vec<Piece>,
    /// Without the colon, each once, in the order of their first use.
    parameters: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// An index into the parameters.
    Parameter(usize),
}

impl Statement {
    /// # Errors
    /// What is wrong with it, in words for the configuration's author.
    pub fn parse(text: &str, role: Role, dialect: Dialect) -> Result<Self, String> {
        let mut scan = Scan::new(text, dialect);
        scan.run()?;
        let statement = Self {
            role,
            pieces: scan.pieces,
            parameters: scan.parameters,
        };
        let first = scan.first_word.to_ascii_uppercase();
        if TRANSACTION_CONTROL.contains(&first.as_str()) {
            return Err(format!(
                "{first} is not allowed: the statement runs in the transaction of the inbox, which Sluice \
                 commits"
            ));
        }
        let allowed = role.first_words(dialect);
        if !allowed.contains(&first.as_str()) {
            let found = match first.as_str() {
                "" => "nothing",
                word => word,
            };
            return Err(format!(
                "expected a statement that begins with {}, found {found}",
                allowed.join(", ")
            ));
        }
        Ok(statement)
    }

    pub fn parameters(&self) -> &[String] {
        &self.parameters
    }

    /// The statement's text; `place` writes the parameter with this index.
    ///
    /// A match becomes the inner part of a statement that only counts. So it cannot change anything, its
    /// columns do not matter, and two of its rows are enough.
    pub fn text(&self, place: impl Fn(usize) -> String) -> String {
        let mut text = match self.role {
            Role::Match => "/* engine.sql.match */ SELECT 1 FROM (".to_owned(),
            Role::Apply => "/* engine.sql.apply */ ".to_owned(),
        };
        for piece in &self.pieces {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::Parameter(index) => text.push_str(&place(*index)),
            }
        }
        if self.role == Role::Match {
            // On a line of its own: the statement may end with a comment.
            text.push_str("\n) AS found LIMIT 2");
        }
        text
    }
}

/// One pass over the text.
struct Scan<'a> {
    rest: &'a str,
    dialect: Dialect,
    pieces: Vec<Piece>,
    parameters: Vec<String>,
    /// The text since the last parameter.
    plain: String,
    first_word: String,
    /// Whether the statement's `;` was seen.
    ended: bool,
}

impl<'a> Scan<'a> {
    fn new(text: &'a str, dialect: Dialect) -> Self {
        Self {
            rest: text,
            dialect,
            pieces: Vec::new(),
            parameters: Vec::new(),
            plain: String::new(),
            first_word: String::new(),
            ended: false,
        }
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(next) = self.rest.chars().next() {
            let skipped = self.comment()?;
            if skipped > 0 {
                self.keep(skipped);
                continue;
            }
            if next.is_whitespace() {
                self.keep(next.len_utf8());
                continue;
            }
            if self.ended {
                return Err("expected one statement, found another behind `;`".to_owned());
            }
            self.code(next)?;
        }
        self.flush();
        Ok(())
    }

    /// Passes one token that is neither space nor comment.
    fn code(&mut self, next: char) -> Result<(), String> {
        let rest = self.rest;
        match next {
            ';' => {
                self.ended = true;
                self.rest = &rest[1..];
            }
            '\'' => self.keep(quoted(rest, '\'', false)?),
            '"' => self.keep(quoted(rest, '"', false)?),
            '`' if self.dialect == Dialect::Sqlite => self.keep(quoted(rest, '`', false)?),
            '[' if self.dialect == Dialect::Sqlite => {
                let end = rest.find(']').ok_or("a `[` is never closed")?;
                self.keep(end + 1);
            }
            ':' if rest.starts_with("::") => self.keep(2),
            ':' => match name(&rest[1..]) {
                "" => self.keep(1),
                name => {
                    self.parameter(name);
                    self.rest = &rest[1 + name.len()..];
                }
            },
            '$' if self.dialect == Dialect::Postgres => {
                let length = dollar_quoted(rest)?;
                self.keep(length);
            }
            '?' | '@' | '$' if self.dialect == Dialect::Sqlite => {
                return Err(format!(
                    "expected parameters by name, such as `:order_id`, found `{next}`"
                ));
            }
            _ => {
                let word = identifier(rest);
                if self.first_word.is_empty() {
                    word.clone_into(&mut self.first_word);
                }
                let escapes = self.dialect == Dialect::Postgres && word.eq_ignore_ascii_case("e");
                let behind = &rest[word.len()..];
                let string = if escapes && behind.starts_with('\'') {
                    quoted(behind, '\'', true)?
                } else {
                    0
                };
                self.keep((word.len() + string).max(next.len_utf8()));
            }
        }
        Ok(())
    }

    /// The length of the comment that begins here; 0 when none does.
    fn comment(&self) -> Result<usize, String> {
        let rest = self.rest;
        if rest.starts_with("--") {
            return Ok(rest.find('\n').unwrap_or(rest.len()));
        }
        if !rest.starts_with("/*") {
            return Ok(0);
        }
        let (mut depth, mut at) = (0_usize, 0_usize);
        while at < rest.len() {
            let nests = self.dialect == Dialect::Postgres || depth == 0;
            if rest[at..].starts_with("/*") && nests {
                depth += 1;
                at += 2;
            } else if rest[at..].starts_with("*/") {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Ok(at);
                }
            } else {
                at += rest[at..].chars().next().map_or(1, char::len_utf8);
            }
        }
        Err("a `/*` is never closed".to_owned())
    }

    fn keep(&mut self, length: usize) {
        let (kept, rest) = self.rest.split_at(length);
        self.plain.push_str(kept);
        self.rest = rest;
    }

    fn parameter(&mut self, name: &str) {
        self.flush();
        let known = self.parameters.iter().position(|known| known == name);
        let index = known.unwrap_or_else(|| {
            self.parameters.push(name.to_owned());
            self.parameters.len() - 1
        });
        self.pieces.push(Piece::Parameter(index));
    }

    fn flush(&mut self) {
        if !self.plain.is_empty() {
            self.pieces
                .push(Piece::Text(std::mem::take(&mut self.plain)));
        }
    }
}

/// The parameter's name that the text begins with: letters, digits and underscores, no digit first.
fn name(text: &str) -> &str {
    let begins = |c: char| c.is_ascii_alphabetic() || c == '_';
    if !text.starts_with(begins) {
        return "";
    }
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    &text[..end.unwrap_or(text.len())]
}

/// The keyword, identifier or number that the text begins with; a dollar sign may stand inside.
fn identifier(text: &str) -> &str {
    let within = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    if text.starts_with('$') {
        return "";
    }
    &text[..text.find(|c| !within(c)).unwrap_or(text.len())]
}

/// The length of what is quoted; a doubled quote stands for itself, and so does one behind a backslash
/// where that escapes.
fn quoted(text: &str, quote: char, backslash: bool) -> Result<usize, String> {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, next)) = chars.next() {
        if backslash && next == '\\' {
            chars.next();
        } else if next == quote {
            match chars.peek() {
                Some((_, again)) if *again == quote => {
                    chars.next();
                }
                _ => return Ok(at + next.len_utf8()),
            }
        }
    }
    Err(format!("a {quote} is never closed"))
}

/// The length of a dollar-quoted string, or of a dollar sign that begins none.
fn dollar_quoted(text: &str) -> Result<usize, String> {
    let tag = name(&text[1..]);
    if !text[1 + tag.len()..].starts_with('$') {
        if text[1..].starts_with(|c: char| c.is_ascii_digit()) {
            return Err("expected parameters by name, such as `:order_id`, found `$`".to_owned());
        }
        return Ok(1);
    }
    let opening = &text[..tag.len() + 2];
    text[opening.len()..]
        .find(opening)
        .map(|end| opening.len() + end + opening.len())
        .ok_or_else(|| format!("a {opening} is never closed"))
}

#[cfg(test)]
mod tests;
