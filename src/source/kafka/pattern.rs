//! Topics that are named by a pattern: `^orders\..*$`. Pure.
//!
//! Who matches depends on the group's protocol: the client (POSIX extended expressions, anywhere in the name)
//! or the broker (RE2, the whole name); `check --connect` matches here. Invariant: a pattern that is let
//! through means the same to all three.

use regex::Regex;

/// Two of Kafka's own topics.
const INTERNAL: [&str; 2] = ["__consumer_offsets", "__transaction_state"];

pub(super) fn is_pattern(topic: &str) -> bool {
    topic.starts_with('^')
}

/// Those of the names that the pattern means.
pub(super) fn matching<'a>(pattern: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let Ok(pattern) = Regex::new(pattern) else {
        return Vec::new();
    };
    let mut matching: Vec<String> = names
        .filter(|name| pattern.is_match(name))
        .map(str::to_owned)
        .collect();
    matching.sort();
    matching
}

/// What is wrong with a pattern, if anything.
pub(super) fn mistake(pattern: &str) -> Option<String> {
    if !pattern.ends_with('$') || pattern.ends_with("\\$") {
        let what =
            "expected a pattern that ends with `$`: without it, the two group protocols disagree";
        return Some(what.to_owned());
    }
    if let Some(strange) = strange(pattern) {
        return Some(format!(
            "{strange} does not mean the same to the broker and to the client: \
             expected letters, digits, `.`, `\\.`, `[…]`, `(…|…)`, `*`, `+`, `?` and `{{n,m}}`"
        ));
    }
    let Ok(parsed) = Regex::new(pattern) else {
        return Some("expected a regular expression".to_owned());
    };
    let internal = INTERNAL.iter().find(|name| parsed.is_match(name))?;
    Some(format!(
        "it matches {internal}, too: expected a pattern that leaves Kafka's own topics out"
    ))
}

/// The first thing in it that some of the three read in another way.
fn strange(pattern: &str) -> Option<String> {
    let mut characters = pattern.chars().peekable();
    let mut in_brackets = false;
    while let Some(c) = characters.next() {
        let next = characters.peek().copied();
        match c {
            '\\' if in_brackets || next.is_none_or(char::is_alphanumeric) => {
                return Some(format!("`\\{}`", next.unwrap_or_default()));
            }
            '\\' => {
                characters.next();
            }
            '[' => in_brackets = true,
            ']' => in_brackets = false,
            '(' | '*' | '+' | '?' | '}' if !in_brackets && next == Some('?') => {
                return Some(format!("`{c}?`"));
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_whole_names_and_no_topic_of_kafkas_own() {
        for fine in [
            "^orders$",
            "^orders-[0-9]+$",
            "^(shop|bank)\\.(orders|paid)\\.v[12]$",
            "^[a-z].{0,20}$",
            "^_?[a-z]*$",
        ] {
            assert_eq!(mistake(fine), None, "{fine}");
        }
        for (wrong, why) in [
            ("^orders", "ends with `$`"),
            ("^orders\\$", "ends with `$`"),
            ("^orders-\\d+$", "`\\d`"),
            ("^[\\.]$", "`\\.`"),
            ("^(?i)orders$", "`(?`"),
            ("^o.*?$", "`*?`"),
            ("^orders[$", "regular expression"),
            ("^(orders$", "regular expression"),
            ("^.*$", "__consumer_offsets"),
            ("^__.*$", "__consumer_offsets"),
            ("^.*_state$", "__transaction_state"),
        ] {
            let said = mistake(wrong).unwrap_or_else(|| panic!("{wrong} is fine"));
            assert!(said.contains(why), "{wrong}: {said}");
        }
        let names = ["orders-2", "orders-1", "orders", "my-orders-1", "orders-1x"];
        assert_eq!(
            matching("^orders-[0-9]+$", names.into_iter()),
            ["orders-1", "orders-2"]
        );
    }
}
