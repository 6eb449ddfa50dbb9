//! What is wrong with the routes: what they refer to, and what they ask of a source, an engine or a
//! database that cannot give it.

use std::collections::BTreeMap;

use super::check::{Broker, Check, Database, Kind};
use super::failure::instead;
use super::mistake::Mistake;
use crate::intake::UNDECODED;
use crate::mapping::{Expression, Property};
use crate::route::{Condition, CorrelateConfig, OnNoMatch, RouteConfig, VariableConfig, When};

/// Adds everything that is wrong or doubtful.
pub fn check(check: &mut Check<'_>) {
    let mut taken_by: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, route) in &check.draft.routes {
        check.name(&["routes", name], name);
        let Some(route) = route else { continue };
        references(check, name, route);
        scope(check, name, route);
        conditions(check, name, route);
        shape(check, name, route);
        parameters(check, name, route);
        expressions(check, name, route);
        order(check, name, route);
        attempts(check, name, route);
        if let Some(correlate) = &route.correlate {
            patience(check, name, correlate);
        }
        match taken_by.get(route.source.as_str()) {
            Some(earlier) => {
                let message = format!(
                    "this route is never reached: `{earlier}` before it has no `when` and takes all of `{}`",
                    route.source
                );
                check.error(&["routes", name], message);
            }
            // Where something of the route is unclear, its condition may be.
            None if route.when.is_none() && !check.draft.is_replaced(&["routes", name]) => {
                taken_by.insert(&route.source, name);
            }
            None => {}
        }
    }
}

fn references(check: &mut Check<'_>, name: &str, route: &RouteConfig) {
    let sources: Vec<_> = check.sources.keys().copied().collect();
    let engines: Vec<_> = check.engines.keys().copied().collect();
    for (key, wanted, known) in [
        ("source", &route.source, sources),
        ("engine", &route.engine, engines),
    ] {
        if !known.contains(&wanted.as_str()) {
            check.say(
                &["routes", name, key],
                Mistake::error(0..0, format!("there is no {key} `{wanted}`"))
                    .help(instead(wanted, &known)),
            );
        }
    }
}

/// A route's name cannot begin so: see [`Check::name`].
fn scope(check: &mut Check<'_>, name: &str, route: &RouteConfig) {
    let path = ["routes", name, "dedup_scope"];
    match route.dedup_scope.as_deref() {
        Some(scope) if scope.starts_with(UNDECODED) => {
            let message = format!(
                "expected a scope that does not begin with `{UNDECODED}`: those are kept for messages that could not \
                 be decoded"
            );
            check.error(&path, message);
        }
        Some(scope) if scope.trim().is_empty() => {
            let message = "expected the name of a scope; without this key it is the route's name";
            check.error(&path, message);
        }
        Some(_) | None => {}
    }
}

fn conditions(check: &mut Check<'_>, name: &str, route: &RouteConfig) {
    let one = |check: &mut Check<'_>, path: &str, condition: &Condition| {
        if let Some(mistake) = condition.mistake() {
            check.error(&["routes", name, path], mistake);
        }
        if condition.one_of.as_ref().is_some_and(Vec::is_empty) {
            check.error(&["routes", name, path], "an empty `one_of` never holds");
        }
    };
    match &route.when {
        None => {}
        Some(When::One(condition)) => one(check, "when", condition),
        Some(When::All(conditions)) => {
            for (index, condition) in conditions.iter().enumerate() {
                one(check, &format!("when[{index}]"), condition);
            }
        }
    }
}

/// Whether the route maps what the statements of its engine take.
fn parameters(check: &mut Check<'_>, name: &str, route: &RouteConfig) {
    let engine = check.draft.engines.iter().find(|(n, _)| *n == route.engine);
    let sql = engine.and_then(|(_, config)| config.as_ref()?.sql.as_ref());
    let (Some(sql), Some(database)) = (sql, check.database) else {
        return;
    };
    let Some(apply) = &route.apply else {
        if route.correlate.is_none() && route.start.is_none() {
            let message = format!("expected `[routes.{name}.apply]` for an engine of statements");
            check.error(&["routes", name], message);
        }
        return;
    };
    for wanted in sql.wanted_parameters(database.dialect()) {
        let mapped = apply.variables.contains_key(&wanted)
            || wanted == "business_key" && apply.business_key.is_some();
        if !mapped {
            let place = match wanted.as_str() {
                "business_key" => "`business_key`",
                _ => "such variable",
            };
            let message = format!(
                "a statement of `{}` takes `:{wanted}`, and the route maps no {place}",
                route.engine
            );
            check.error(&["routes", name, "apply"], message);
        }
    }
}

/// What the route wants done, and whether its engine can do that.
fn shape(check: &mut Check<'_>, name: &str, route: &RouteConfig) {
    let given: Vec<_> = [
        ("correlate", route.correlate.is_some()),
        ("start", route.start.is_some()),
        ("apply", route.apply.is_some()),
    ]
    .into_iter()
    .filter_map(|(key, given)| given.then_some(key))
    .collect();
    if given.len() > 1 {
        let message = format!("expected only one of `{}`", given.join("` and `"));
        check.error(&["routes", name], message);
    }
    let engine = route.engine.as_str();
    for key in given {
        let message = match (check.engines.get(engine), key) {
            (Some(Some(Kind::Sql)), "correlate" | "start") => {
                format!(
                    "`{key}` needs an engine with processes, and `{engine}` is one of statements"
                )
            }
            (Some(Some(Kind::CamundaTables)), "apply") => {
                format!("`apply` needs an engine of statements, and `{engine}` is not one")
            }
            _ => continue,
        };
        let help = match key {
            "apply" => "expected `correlate` or `start`",
            _ => "expected `apply`",
        };
        check.say(
            &["routes", name, key],
            Mistake::error(0..0, message).help(help),
        );
    }
    if let Some(start) = &route.start {
        let by = [
            start.message_name.is_some(),
            start.process_definition_key.is_some(),
        ];
        if by[0] == by[1] {
            let message = "expected exactly one of `message_name` and `process_definition_key`";
            check.error(&["routes", name, "start"], message);
        }
    }
    let tenants = [
        (
            "correlate",
            route
                .correlate
                .as_ref()
                .map(|c| (&c.tenant_id, c.without_tenant)),
        ),
        (
            "start",
            route
                .start
                .as_ref()
                .map(|s| (&s.tenant_id, s.without_tenant)),
        ),
    ];
    for (key, tenant) in tenants {
        if let Some((Some(_), true)) = tenant {
            let path = ["routes", name, key, "without_tenant"];
            check.error(&path, "`tenant_id` and `without_tenant` exclude each other");
        }
    }
}

/// Every expression of the route, and whether the source has what it asks for.
fn expressions(check: &mut Check<'_>, name: &str, route: &RouteConfig) {
    if let Some(Expression::Literal(_)) = &route.dedup_key {
        check.say(
            &["routes", name, "dedup_key"],
            Mistake::error(
                0..0,
                "a literal: every message but the first would be a duplicate",
            )
            .help("expected a path such as `$.id` or a property such as `@message_id`"),
        );
    }
    let Some(Some(broker)) = check.sources.get(route.source.as_str()).copied() else {
        return;
    };
    for (path, expression) in all(route) {
        let Expression::Property(property) = expression else {
            continue;
        };
        let mistake = match (broker, property) {
            (
                Broker::Rabbitmq,
                Property::Key
                | Property::Topic
                | Property::Partition
                | Property::Offset
                | Property::Coordinates,
            ) => "only a Kafka record has it, and this is a RabbitMQ queue",
            (
                Broker::Kafka,
                Property::MessageId | Property::CorrelationId | Property::RoutingKey,
            ) => "only a RabbitMQ message has it, and these are Kafka topics",
            _ => continue,
        };
        let path: Vec<_> = ["routes", name]
            .into_iter()
            .chain(path.iter().map(String::as_str))
            .collect();
        let mistake = Mistake::error(0..0, format!("`{expression}` has no value here: {mistake}"));
        let help = match broker {
            Broker::Rabbitmq => {
                "@message_id, @correlation_id, @routing_key, @timestamp, @header.NAME"
            }
            Broker::Kafka => {
                "@key, @topic, @partition, @offset, @coordinates, @timestamp, @header.NAME"
            }
        };
        check.say(&path, mistake.help(format!("it has {help}")));
    }
}

/// With their paths below the route.
fn all<'a>(route: &'a RouteConfig) -> Vec<(Vec<String>, &'a Expression)> {
    let mut found = Vec::new();
    let mut add = |path: &[&str], expression: Option<&'a Expression>| {
        if let Some(expression) = expression {
            found.push((path.iter().map(ToString::to_string).collect(), expression));
        }
    };
    add(&["dedup_key"], route.dedup_key.as_ref());
    add(&["order_by"], route.order_by.as_ref());
    match &route.when {
        None => {}
        Some(When::One(condition)) => add(&["when", "value"], condition.value.as_ref()),
        Some(When::All(conditions)) => {
            for (index, condition) in conditions.iter().enumerate() {
                add(
                    &[&format!("when[{index}]"), "value"],
                    condition.value.as_ref(),
                );
            }
        }
    }
    let mut variables = Vec::new();
    if let Some(correlate) = &route.correlate {
        add(
            &["correlate", "message_name"],
            Some(&correlate.message_name),
        );
        add(
            &["correlate", "business_key"],
            correlate.business_key.as_ref(),
        );
        add(
            &["correlate", "process_instance_id"],
            correlate.process_instance_id.as_ref(),
        );
        add(&["correlate", "tenant_id"], correlate.tenant_id.as_ref());
        variables.push(("correlate", "variables", &correlate.variables));
        variables.push(("correlate", "correlation_keys", &correlate.correlation_keys));
    }
    if let Some(start) = &route.start {
        add(&["start", "message_name"], start.message_name.as_ref());
        add(
            &["start", "process_definition_key"],
            start.process_definition_key.as_ref(),
        );
        add(&["start", "business_key"], start.business_key.as_ref());
        add(&["start", "tenant_id"], start.tenant_id.as_ref());
        variables.push(("start", "variables", &start.variables));
    }
    if let Some(apply) = &route.apply {
        add(&["apply", "business_key"], apply.business_key.as_ref());
        variables.push(("apply", "variables", &apply.variables));
    }
    for (table, key, variables) in variables {
        for (name, variable) in variables {
            match variable {
                VariableConfig::Plain(from) => add(&[table, key, name], Some(from)),
                VariableConfig::Typed(typed) => add(&[table, key, name, "from"], Some(&typed.from)),
            }
        }
    }
    found
}

fn order(check: &mut Check<'_>, name: &str, route: &RouteConfig) {
    if route.order_by.is_some() {
        if check.database == Some(Database::Sqlite) {
            let message = "order per key needs an inbox on PostgreSQL";
            check.error(&["routes", name, "order_by"], message);
        }
        return;
    }
    for key in ["order_scope", "on_dead"] {
        no_effect(check, &["routes", name], key, "order_by");
    }
}

/// A key that is there without the one that gives it a meaning.
fn no_effect(check: &mut Check<'_>, table: &[&str], key: &str, without: &str) {
    let path: Vec<_> = table.iter().copied().chain([key]).collect();
    if check.draft.tree.has(&path) {
        check.warning(&path, format!("`{key}` has no effect without `{without}`"));
    }
}

fn attempts(check: &mut Check<'_>, name: &str, route: &RouteConfig) {
    let attempts = &route.attempts;
    let table = ["routes", name, "attempts"];
    if attempts.max == 0 {
        check.error(&["routes", name, table[2], "max"], "expected 1 or more");
    }
    if !(attempts.multiplier >= 1.0 && attempts.multiplier.is_finite()) {
        check.error(
            &["routes", name, table[2], "multiplier"],
            "expected 1.0 or more",
        );
    }
    if attempts.initial_interval.as_ms() == 0 {
        let message = "expected a duration above zero: nothing is tried again without a delay";
        check.error(&["routes", name, table[2], "initial_interval"], message);
    }
    if attempts.max_interval < attempts.initial_interval {
        let message = format!(
            "expected at least `initial_interval` ({})",
            attempts.initial_interval
        );
        check.error(&["routes", name, table[2], "max_interval"], message);
    }
}

fn patience(check: &mut Check<'_>, name: &str, correlate: &CorrelateConfig) {
    let table = ["routes", name, "correlate"];
    if correlate.ttl.is_some_and(|ttl| ttl.as_ms() == 0) {
        check.error(
            &["routes", name, table[2], "ttl"],
            "expected a duration above zero",
        );
    }
    match correlate.on_no_match {
        OnNoMatch::Wait | OnNoMatch::Start => {
            if correlate.ttl.is_none() {
                no_effect(check, &table, "on_expiry", "ttl");
            }
        }
        OnNoMatch::Dead | OnNoMatch::Ignore => {
            for key in ["ttl", "on_expiry"] {
                no_effect(check, &table, key, "on_no_match = \"wait\"");
            }
        }
    }
}
