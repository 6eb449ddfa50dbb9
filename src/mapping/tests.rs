use super::*;

fn expression(text: &str) -> Expression {
    text.parse().expect("a valid expression")
}

fn text(expr: &str, payload: &str) -> Result<Option<String>, Undecodable> {
    let envelope = Envelope::default();
    expression(expr).text(&Subject::new(payload.as_bytes(), &envelope))
}

fn value(expr: &str, wanted: Option<ValueType>, payload: &str) -> Result<Option<Value>, String> {
    let envelope = Envelope::default();
    expression(expr)
        .value(&Subject::new(payload.as_bytes(), &envelope), wanted)
        .map_err(|e| e.detail)
}

#[test]
fn a_number_in_a_key_keeps_its_own_digits() {
    let big = "123456789012345678901234567890";
    assert_eq!(
        text("$.id", &format!("{{\"id\": {big}}}")),
        Ok(Some(big.into()))
    );
    assert_eq!(text("$.id", r#"{"id": 1.10}"#), Ok(Some("1.10".into())));
    assert_eq!(
        text("$.a[1].id", r#"{"a":[0,{"id":18446744073709551615}]}"#),
        Ok(Some("18446744073709551615".into()))
    );
    assert_eq!(text("$.id", r#"{"id": 7}"#), Ok(Some("7".into())));
}

#[test]
fn a_missing_null_or_empty_value_is_no_key() {
    assert_eq!(text("$.id", "{}"), Ok(None));
    assert_eq!(text("$.id", r#"{"id":null}"#), Ok(None));
    assert_eq!(text("$.id", r#"{"id":""}"#), Ok(None));
}

#[test]
fn several_values_and_objects_are_no_key() {
    assert!(text("$..id", r#"{"id":1,"a":{"id":2}}"#).is_err());
    assert!(text("$.id", r#"{"id":{}}"#).is_err());
}

#[test]
fn what_is_not_json_says_where() {
    let error = text("$.id", "{\"id\": nope}").unwrap_err();
    assert_eq!(error.reason, DeadReason::NotJson);
    assert_eq!(error.detail, "the payload is not JSON at line 1 column 9");
    assert_eq!(
        text("$.id", "").unwrap_err().detail,
        "the payload is empty, expected JSON"
    );
    // A lone surrogate, and nesting beyond what the parser takes.
    assert!(text("$.id", r#"{"id":"\ud800"}"#).is_err());
    assert!(text("$.id", &"[".repeat(100_000)).is_err());
}

#[test]
fn types_follow_json_or_are_named() {
    let payload = r#"{"s":"x","i":5,"l":5000000000,"d":1.5,"b":true,"n":null,"o":{"z":1,"a":2},"big":92233720368547758080,"t":"2026-01-02T03:04:05.006+01:00","e":1e3}"#;
    let check = |expr, wanted, expected: Value| {
        assert_eq!(value(expr, wanted, payload), Ok(Some(expected)), "{expr}");
    };
    check("$.s", None, Value::String("x".into()));
    check("$.i", None, Value::Integer(5));
    check("$.l", None, Value::Long(5_000_000_000));
    check("$.d", None, Value::Double(1.5));
    check("$.e", None, Value::Double(1000.0));
    check("$.b", None, Value::Boolean(true));
    check("$.n", None, Value::Null);
    check("$.o", None, Value::Json(r#"{"z":1,"a":2}"#.into()));
    check("$", Some(ValueType::Json), Value::Json(payload.into()));
    check("$.i", Some(ValueType::Long), Value::Long(5));
    check("$.i", Some(ValueType::Short), Value::Short(5));
    check("$.i", Some(ValueType::String), Value::String("5".into()));
    check(
        "$.big",
        Some(ValueType::String),
        Value::String("92233720368547758080".into()),
    );
    check("$.t", Some(ValueType::Date), Value::Date(1_767_319_445_006));
    check("$.i", Some(ValueType::Date), Value::Date(5));
    check("a literal", None, Value::String("a literal".into()));
    check("$$.i", None, Value::String("$.i".into()));
    check("${i}", None, Value::String("${i}".into()));
    check("$${i}", None, Value::String("${i}".into()));
    check("@@key", None, Value::String("@key".into()));
    assert!(
        value("$.big", None, payload)
            .unwrap_err()
            .contains("beyond 64 bits")
    );
    assert_eq!(
        value("$.s", Some(ValueType::Integer), payload),
        Err("$.s is a string, expected integer".into())
    );
    assert_eq!(value("$.nope", None, payload), Ok(None));
}

#[test]
fn a_property_that_does_not_exist_names_those_that_do() {
    let error = "@hedder.x".parse::<Expression>().unwrap_err();
    assert!(error.contains("@header.NAME"), "{error}");
    assert!(
        "$.a["
            .parse::<Expression>()
            .unwrap_err()
            .contains("JSONPath")
    );
}

#[test]
fn headers_are_found_by_their_last_value_and_without_regard_to_case() {
    let envelope = Envelope {
        headers: vec![
            ("Type".into(), Text::new("a")),
            ("type".into(), Text::new("b")),
            ("type".into(), Text::new("c")),
            ("X".into(), Text::new(vec![0xff])),
        ],
        ..Envelope::default()
    };
    let subject = Subject::new(b"", &envelope);
    assert_eq!(
        expression("@header.type").text(&subject),
        Ok(Some("c".into()))
    );
    assert_eq!(
        expression("@header.Type").text(&subject),
        Ok(Some("a".into()))
    );
    assert_eq!(
        expression("@header.TYPE").text(&subject),
        Ok(Some("c".into()))
    );
    assert!(expression("@header.X").text(&subject).is_err());
    assert_eq!(
        expression("@header.X").value(&subject, Some(ValueType::Bytes)),
        Ok(Some(Value::Bytes(vec![0xff])))
    );
}

#[test]
fn a_number_keeps_its_digits_whatever_its_name_and_the_last_of_one_name_counts() {
    let payload = r#"{"a":{"x":[1,{"b":2.0}],"\u0062":1.50},"b":7.0,"b":7.10,"c":[0,{"d":2.50}]}"#;
    for (path, digits) in [("$.a.b", "1.50"), ("$.b", "7.10"), ("$.c[1].d", "2.50")] {
        assert_eq!(text(path, payload), Ok(Some(digits.to_owned())), "{path}");
    }
}

#[test]
fn a_path_that_ends_within_an_escape_is_a_mistake_like_any_other() {
    for cut in [
        "$['\\u",
        "$['\\uD",
        "$[\"\\ud8",
        "$['\\u00e",
        "$['\\u00e4",
        "$['\\uD83D\\u",
        "$['\\uD83D\\uD",
        "$['\\",
        "$['a",
        "$[",
    ] {
        assert!(cut.parse::<Expression>().is_err(), "{cut}");
    }
    assert_eq!(text("$['\\u00e4']", r#"{"ä":"x"}"#), Ok(Some("x".into())));
}
