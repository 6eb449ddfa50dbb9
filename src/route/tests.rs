use super::*;
use crate::message::{Action, Correlation, Envelope, Message, Tenant, Text, Value, Variable};
use crate::source::OnUnrouted;

fn route(toml: &str) -> Route {
    Route::new("r", toml::from_str(toml).expect("a valid route"))
}

fn routes(toml: &[(&str, &str)], on_unrouted: OnUnrouted) -> Routes {
    Routes::new(
        [("s".to_owned(), on_unrouted)],
        toml.iter()
            .map(|(name, toml)| Route::new(name, toml::from_str(toml).expect("a valid route"))),
    )
}

fn decode(route: &Route, payload: &str, envelope: &Envelope) -> Result<Message, Undecodable> {
    route.decode(&Subject::new(payload.as_bytes(), envelope))
}

fn with_type(value: &str) -> Envelope {
    Envelope {
        headers: vec![("type".into(), Text::new(value.to_owned()))],
        ..Envelope::default()
    }
}

#[test]
fn the_first_route_that_matches_takes_the_delivery() {
    let base = "source = 's'\nengine = 'e'\ndedup_key = '$.id'\n";
    let a = format!("{base}when = {{ header = 'type', equals = 'A' }}\napply = {{}}");
    let b = format!(
        "{base}when = [{{ value = '$.kind', one_of = ['B', 2] }}, {{ header = 'type', exists = true }}]\napply = {{}}"
    );
    let routes = routes(&[("a", &a), ("b", &b)], OnUnrouted::Dead);
    let taken = |payload: &str, envelope: &Envelope| match routes
        .decode("s", &Subject::new(payload.as_bytes(), envelope))
    {
        Taken::Message(route, _) => format!("{} true", route.name),
        Taken::Unusable { route, .. } => format!("{} false", route.name),
        Taken::Dead(undecodable) => undecodable.reason.as_str().to_owned(),
        Taken::Ignored => "ignored".to_owned(),
    };
    assert_eq!(taken(r#"{"id":1,"kind":"B"}"#, &with_type("A")), "a true");
    assert_eq!(taken(r#"{"id":1,"kind":2}"#, &with_type("x")), "b true");
    assert_eq!(taken(r#"{"kind":2}"#, &with_type("x")), "b false");
    assert_eq!(
        taken(r#"{"id":1,"kind":2}"#, &Envelope::default()),
        "unrouted"
    );
    assert_eq!(taken(r#"{"id":1,"kind":{}}"#, &with_type("x")), "unrouted");
}

#[test]
fn what_is_not_json_is_never_ignored() {
    let route = "source = 's'\nengine = 'e'\nwhen = { value = '$.kind', equals = 'B' }";
    let routes = routes(&[("r", route)], OnUnrouted::Ignore);
    let envelope = Envelope::default();
    assert!(matches!(
        routes.decode("s", &Subject::new(b"{}", &envelope)),
        Taken::Ignored
    ));
    assert!(matches!(
        routes.decode("s", &Subject::new(b"oops", &envelope)),
        Taken::Dead(_)
    ));
    assert!(matches!(
        routes.decode("s", &Subject::new(b"", &envelope)),
        Taken::Dead(_)
    ));
}

#[test]
fn a_route_maps_everything_that_correlation_needs() {
    let route = route(
        r#"
        source = "s"
        engine = "e"
        dedup_key = "$.paymentId"
        order_by = "$.orderId"
        [correlate]
        message_name = "PaymentReceived"
        business_key = "$.orderId"
        correlation_keys = { region = "$.region", n = { from = "$.n", type = "long" } }
        tenant_id = "@header.tenant"
        variables = { amount = "$.amount", paidAt = { from = "$.paidAt", type = "date" }, note = { from = "$.note", optional = true }, channel = "web", retries = 3 }
        "#,
    );
    let envelope = Envelope {
        headers: vec![("tenant".into(), Text::new("t1"))],
        ..Envelope::default()
    };
    let payload = r#"{"paymentId":"p1","orderId":7,"region":"eu","n":1,"amount":1.5,"paidAt":"1970-01-01T00:00:01Z"}"#;
    let message = decode(&route, payload, &envelope).expect("decodes");
    assert_eq!(message.dedup_key.text, "p1");
    assert_eq!(message.order_key.as_deref(), Some("7"));
    let variable = |name: &str, value| Variable {
        name: name.into(),
        value,
    };
    assert_eq!(
        message.action,
        Action::Correlate(Correlation {
            message_name: "PaymentReceived".into(),
            business_key: Some("7".into()),
            correlation_keys: vec![
                variable("n", Value::Long(1)),
                variable("region", Value::String("eu".into())),
            ],
            process_instance_id: None,
            tenant: Tenant::Is("t1".into()),
        })
    );
    assert_eq!(
        message.variables,
        vec![
            variable("amount", Value::Double(1.5)),
            variable("channel", Value::String("web".into())),
            variable("paidAt", Value::Date(1000)),
            variable("retries", Value::Integer(3)),
        ]
    );
    assert_eq!(route.order.as_ref().map(|o| o.scope.as_str()), Some("s"));
    assert_eq!(route.dedup_scope, "r");
}

#[test]
fn what_is_missing_is_named_but_never_quoted() {
    let route = route(
        "source='s'\nengine='e'\ndedup_key='$.id'\n[correlate]\nmessage_name='M'\nvariables={a='$.secret.x'}",
    );
    let envelope = Envelope::default();
    let error = decode(&route, r#"{"secret":"s3cret"}"#, &envelope).unwrap_err();
    assert_eq!(error.reason, DeadReason::NoKey);
    assert_eq!(error.detail, "dedup_key: $.id has no value");
    let error = decode(&route, r#"{"id":1,"secret":"s3cret"}"#, &envelope).unwrap_err();
    assert_eq!(error.reason, DeadReason::Mapping);
    assert!(!error.detail.contains("s3cret"), "{}", error.detail);
}

#[test]
fn the_convention_needs_only_source_and_engine() {
    let route = route("source='s'\nengine='e'");
    let envelope = Envelope {
        topic: Some("OrderPaid".into()),
        partition: Some(3),
        offset: Some(12),
        timestamp: Some(99),
        key: Some(Text::new("o-1")),
        ..Envelope::default()
    };
    let message = decode(&route, r#"{"a":1,"b b":{"c":[]}}"#, &envelope).expect("decodes");
    assert_eq!(message.dedup_key.text, "OrderPaid/3@12#99");
    let Action::Correlate(correlation) = message.action else {
        panic!("the convention correlates");
    };
    assert_eq!(correlation.message_name, "OrderPaid");
    assert_eq!(correlation.business_key.as_deref(), Some("o-1"));
    assert_eq!(message.variables.len(), 2);
    assert_eq!(
        message.variables[1].value,
        Value::Json(r#"{"c":[]}"#.into())
    );

    // On RabbitMQ there are no coordinates to fall back on.
    let envelope = Envelope {
        routing_key: Some("OrderPaid".into()),
        ..Envelope::default()
    };
    assert_eq!(
        decode(&route, "{}", &envelope).unwrap_err().reason,
        DeadReason::NoKey
    );
    assert_eq!(
        decode(
            &route,
            "[]",
            &Envelope {
                message_id: Some("m".into()),
                ..envelope
            }
        )
        .unwrap_err()
        .reason,
        DeadReason::Mapping
    );
}

#[test]
fn dead_and_ignore_are_a_second_look_some_seconds_later() {
    let patience = |extra: &str| {
        route(&format!(
            "source='s'\nengine='e'\n[correlate]\nmessage_name='M'\n{extra}"
        ))
        .patience
    };
    assert_eq!(
        patience(""),
        Patience {
            ttl: None,
            then: Then::Dead(DeadReason::Expired)
        }
    );
    assert_eq!(
        patience("ttl='1h'\non_expiry='ignore'"),
        Patience {
            ttl: Some(Span::secs(3600)),
            then: Then::Ignore
        }
    );
    assert_eq!(
        patience("on_no_match='dead'"),
        Patience {
            ttl: Some(SECOND_LOOK),
            then: Then::Dead(DeadReason::NoMatch)
        }
    );
}
