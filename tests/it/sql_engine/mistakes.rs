//! What `sluice check` says about statements, without a database.

use sluice::config::{Config, Look};

fn said(url: &str, sql: &str, route: &str) -> String {
    let text = format!(
        r#"[inbox]
url = "{url}"

[sources.orders.kafka]
bootstrap_servers = "localhost:9092"
topics = ["orders"]
group_id = "sluice"

[engines.shop.sql]
{sql}

[routes.order]
source = "orders"
engine = "shop"
{route}
"#
    );
    match Config::parse("sluice.toml", &text, &|_| None) {
        Ok((_, report)) | Err(report) => report.render(Look::Plain),
    }
}

#[test]
fn a_statement_that_cannot_be_run_is_a_mistake_of_the_configuration() {
    let apply = "apply = \"INSERT INTO orders VALUES (:order_id, :business_key, :dedup_key)\"";
    let route = "apply = { business_key = \"$.b\", variables = { order_id = \"$.id\" } }";
    for url in ["postgres://db/x", "sqlite:x.db"] {
        assert_eq!(said(url, apply, route), "");
    }
    for (url, sql, route, expected) in [
        (
            "sqlite:x.db",
            "apply = \"COMMIT\"",
            route,
            "COMMIT is not allowed",
        ),
        (
            "postgres://db/x",
            "match = \"DELETE FROM t\"\napply = \"SELECT 1\"",
            route,
            "DELETE",
        ),
        (
            "postgres://db/x",
            "apply = \"REPLACE INTO t VALUES (1)\"",
            route,
            "REPLACE",
        ),
        ("sqlite:x.db", "match = \"SELECT 1\"", route, "apply"),
        ("sqlite:x.db", apply, "", "expected `[routes.order.apply]`"),
        (
            "sqlite:x.db",
            apply,
            "apply = { business_key = \"$.b\" }",
            "takes `:order_id`",
        ),
        (
            "sqlite:x.db",
            apply,
            "apply = { variables = { order_id = \"$.id\" } }",
            "maps no `business_key`",
        ),
    ] {
        let said = said(url, sql, route);
        assert!(said.contains(expected), "{sql} {route}: {said}");
    }
}
