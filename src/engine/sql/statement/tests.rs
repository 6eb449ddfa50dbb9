use super::*;

fn parse(text: &str, dialect: Dialect) -> Result<Statement, String> {
    Statement::parse(text, Role::Apply, dialect)
}

/// What reaches the server, without the name in front.
fn sent(text: &str, dialect: Dialect) -> String {
    let statement = parse(text, dialect).expect(text);
    let text = statement.text(|index| format!("<{}>", statement.parameters()[index]));
    let (_, rest) = text.split_once("*/ ").expect("it begins with its name");
    rest.to_owned()
}

#[test]
fn a_parameter_is_found_only_where_it_is_code() {
    use Dialect::{Postgres, Sqlite};
    let both = [
        (
            "INSERT INTO t VALUES (:a, :b_2,:a)",
            "INSERT INTO t VALUES (<a>, <b_2>,<a>)",
        ),
        (
            "SELECT ':a', 'it''s :a', :a",
            "SELECT ':a', 'it''s :a', <a>",
        ),
        ("SELECT \":a\", \"x\"\":a\"", "SELECT \":a\", \"x\"\":a\""),
        ("SELECT 1 -- :a\n, :a", "SELECT 1 -- :a\n, <a>"),
        ("SELECT /* :a */ :a", "SELECT /* :a */ <a>"),
        (
            "/* why */ SELECT :a;  -- the end",
            "/* why */ SELECT <a>  -- the end",
        ),
        ("SELECT ä, :aä", "SELECT ä, <a>ä"),
        ("SELECT a[1:2], x:1", "SELECT a[1:2], x:1"),
        ("SELECT 1e5, 0x1F, a1", "SELECT 1e5, 0x1F, a1"),
    ];
    for (text, expected) in both {
        assert_eq!(sent(text, Postgres), expected);
        assert_eq!(sent(text, Sqlite), expected);
    }
    let postgres = [
        ("SELECT :a::int, b::text", "SELECT <a>::int, b::text"),
        (
            "SELECT $$:a$$, $x$ $$ :a $x$, :a",
            "SELECT $$:a$$, $x$ $$ :a $x$, <a>",
        ),
        (
            "SELECT E'\\':a', e'\\\\', :a",
            "SELECT E'\\':a', e'\\\\', <a>",
        ),
        ("SELECT '\\', :a", "SELECT '\\', <a>"),
        ("SELECT /* /* */ :a */ :a", "SELECT /* /* */ :a */ <a>"),
        (
            "SELECT f(x := :a), b ? 'c', @b",
            "SELECT f(x := <a>), b ? 'c', @b",
        ),
        ("SELECT a$1, b$c$ FROM t", "SELECT a$1, b$c$ FROM t"),
    ];
    for (text, expected) in postgres {
        assert_eq!(sent(text, Postgres), expected);
    }
    let sqlite = [
        ("SELECT [:a], `:a`, :a", "SELECT [:a], `:a`, <a>"),
        ("SELECT /* /* */ :a", "SELECT /* /* */ <a>"),
    ];
    for (text, expected) in sqlite {
        assert_eq!(sent(text, Sqlite), expected);
    }
}

#[test]
fn a_match_only_counts() {
    let statement = Statement::parse("SELECT * FROM o -- open", Role::Match, Dialect::Postgres);
    assert_eq!(
        statement.expect("a match").text(|_| unreachable!()),
        "/* engine.sql.match */ SELECT 1 FROM (SELECT * FROM o -- open\n) AS found LIMIT 2"
    );
}

#[test]
fn what_is_refused_is_named() {
    use Dialect::{Postgres, Sqlite};
    let cases = [
        ("commit", Postgres, "COMMIT is not allowed"),
        ("/* x */ Begin Immediate", Sqlite, "BEGIN is not allowed"),
        (
            "PREPARE TRANSACTION 'x'",
            Postgres,
            "PREPARE is not allowed",
        ),
        ("SET search_path = x", Postgres, "found SET"),
        ("PRAGMA foreign_keys = off", Sqlite, "found PRAGMA"),
        ("MERGE INTO t", Sqlite, "found MERGE"),
        ("", Postgres, "found nothing"),
        (" -- nothing", Postgres, "found nothing"),
        (
            "UPDATE t SET a = 1; COMMIT",
            Postgres,
            "expected one statement",
        ),
        ("UPDATE t SET a = 1;;", Sqlite, "expected one statement"),
        ("SELECT $1", Postgres, "parameters by name"),
        ("SELECT ?1", Sqlite, "parameters by name"),
        ("SELECT @a", Sqlite, "parameters by name"),
        ("SELECT $a", Sqlite, "parameters by name"),
        ("SELECT 'a", Postgres, "a ' is never closed"),
        ("SELECT \"a", Postgres, "a \" is never closed"),
        ("SELECT /* a", Postgres, "a `/*` is never closed"),
        ("SELECT $x$ a $y$", Postgres, "a $x$ is never closed"),
        ("SELECT [a", Sqlite, "a `[` is never closed"),
    ];
    for (text, dialect, expected) in cases {
        let refused = parse(text, dialect).expect_err(text);
        assert!(refused.contains(expected), "{text}: {refused}");
    }
    let refused = Statement::parse("UPDATE t SET a = 1", Role::Match, Postgres);
    assert!(refused.is_err(), "a match only looks");
}

proptest::proptest! {
    #[test]
    fn nothing_between_the_parameters_is_changed(text in "[-a-z'\"$:;/*\\[\\]? \n\\\\ä]{0,40}") {
        for dialect in [Dialect::Postgres, Dialect::Sqlite] {
            let text = format!("SELECT {text}");
            if let Ok(statement) = parse(&text, dialect) {
                let back = statement.text(|index| format!(":{}", statement.parameters()[index]));
                let (_, back) = back.split_once("*/ ").expect("it begins with its name");
                let without = |text: &str| text.replace(';', "");
                proptest::prop_assert!(back == text || without(back) == without(&text));
            }
        }
    }
}
