//! The secrets of a configuration file, replaced in its text before any of it is shown.
//!
//! Knows keys by their names and URLs by their look, and no section. Invariant: what is masked keeps its length and its
//! lines, so that a caret stands where it stood.

use std::ops::Range;

/// Words in a key's name that say that its value is a secret.
const SECRET_WORDS: [&str; 6] = ["pass", "secret", "token", "pwd", "credential", "auth"];

/// The table whose values are all treated as secrets; a part of its name, so that most misspellings have it, too.
const CLIENT_OPTIONS: &str = "rdkafka_opt";

/// Whether everything in the table of that key is treated as a secret.
pub fn holds_secrets(key: &str) -> bool {
    key.contains(CLIENT_OPTIONS)
}

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
pub fn mask(text: &str) -> String {
    let mut out = text.as_bytes().to_vec();
    let secrets = passwords_of_urls(text)
        .chain(values_of_secret_keys(text))
        .chain(values_of_client_options(text))
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
        Some(value_behind(text, at))
    })
}

/// What stands behind the equals sign that is here, without its quotes; to the end of the line, where it has none.
fn value_behind(text: &str, equals: usize) -> Range<usize> {
    let value = text[equals + 1..].trim_start_matches([' ', '\t']);
    let start = text.len() - value.len();
    let quote = ["\"\"\"", "\'\'\'", "\"", "\'"]
        .into_iter()
        .find(|quote| value.starts_with(quote));
    let Some(quote) = quote else {
        let end = value.find('\n').unwrap_or(value.len());
        return start..start + end;
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
    start..start + end
}

/// Every value of `librdkafka_options`, as one table, as a section or as dotted keys: which of the client's settings
/// hold a secret only the client knows.
fn values_of_client_options(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices(CLIENT_OPTIONS).flat_map(|(at, name)| {
        let mut from = at + name.len();
        // A section ends where the next one begins, a table with its brace, a dotted key with its value.
        let key = text[from..].split(['=', '\n']).next().unwrap_or_default();
        let is_section = key.contains(']');
        let is_table = text[from + key.len()..]
            .strip_prefix('=')
            .is_some_and(|value| value.trim_start().starts_with('{'));
        if is_table {
            from += key.len() + 1;
        }
        let mut values = Vec::new();
        while let Some(equals) = text[from..].find('=') {
            let between = &text[from..from + equals];
            let ends = if is_section {
                between.contains("\n[")
            } else if is_table {
                between.contains('}') || between.contains("\n[")
            } else {
                !values.is_empty() || between.contains('\n')
            };
            if ends {
                break;
            }
            let value = value_behind(text, from + equals);
            let is_quoted = text[..value.start].ends_with(['"', '\'']);
            let is_last = is_table && !is_quoted && text[value.clone()].contains('}');
            from = value.end;
            values.push(value);
            if is_last {
                break;
            }
        }
        values
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
            (
                "librdkafka_options = { \"ssl.key.pem\" = \"a=b\", 'x' = 5, \"y\" = \"z\" }\nq = \"r\"",
                "librdkafka_options = { \"ssl.key.pem\" = \"***\", 'x' = **************\nq = \"r\"",
            ),
            (
                "librdkafka_options = { a = \"b\" }\nq = \"r\"",
                "librdkafka_options = { a = \"*\" }\nq = \"r\"",
            ),
            (
                "[x.librdkafka_options]\na = \"b\"\n\n\"ssl.key.pem\" = \"\"\"-\nc\n\"\"\"\n[q]\nr = \"s\"",
                "[x.librdkafka_options]\na = \"*\"\n\n\"ssl.key.pem\" = \"\"\"*\n*\n\"\"\"\n[q]\nr = \"s\"",
            ),
            (
                "librdkafka_options.\"ssl.key.pem\" = \"a\"\nq = \"r\"",
                "librdkafka_options.\"ssl.key.pem\" = \"*\"\nq = \"r\"",
            ),
            (
                "librdkafka_options = { a = \"b\", c = \"d",
                "librdkafka_options = { a = \"*\", c = \"*",
            ),
            (
                "librdkafka_options = \"a\"\nq = 5",
                "librdkafka_options = \"*\"\nq = 5",
            ),
        ] {
            assert_eq!(mask(text), masked);
        }
    }
}
