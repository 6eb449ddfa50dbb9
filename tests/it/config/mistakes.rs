//! What is said about each kind of mistake: one snapshot of them all.

use std::fmt::Write as _;

use proptest::prelude::*;
use sluice::config::Look;

use super::{GOOD, good, load, spoiled};

#[test]
fn all_mistakes_of_a_file_are_reported_at_once() {
    let report = load(&spoiled(&[
        ("url = \"${", "url = \"${NO_"),
        (
            "queue = \"payments\"",
            "prefetch_count = 0\nqueu = \"payments\"",
        ),
        ("\"1h\"", "\"1 hoor\""),
        ("\"$.amount\"", "\"$.amount[\""),
        (
            "[routes.all]\nsource = \"payments\"",
            "[routes.all]\nsource = \"paymints\"",
        ),
        ("topics = [\"orders\"]", "topics = [\"orders\", 5]"),
        ("message_name =", "mesage_name ="),
    ]))
    .unwrap_err();
    let places: Vec<_> = report
        .mistakes
        .iter()
        .map(|mistake| report.position(mistake))
        .collect();
    insta::assert_snapshot!(report.to_string());
    assert_eq!(places.len(), 10, "{report}");
}

/// Each case: what it is about, and what is replaced in the good configuration.
const MISTAKES: &[(&str, &[(&str, &str)])] = &[
    ("no TOML", &[("url = ", "url ")]),
    (
        "a key twice",
        &[("queue = \"payments\"", "queue = \"a\"\nqueue = \"b\"")],
    ),
    ("an unknown section", &[("[inbox]", "[inboxes]")]),
    ("an unknown key", &[("queue =", "queu =")]),
    (
        "an unknown key like no other",
        &[("queue = \"payments\"", "queue = \"payments\"\nbanana = 1")],
    ),
    (
        "a misspelled secret",
        &[(
            "queue = \"payments\"",
            "queue = \"payments\"\npasword = \"hunter2\"",
        )],
    ),
    ("a missing key", &[("group_id = \"sluice\"", "")]),
    (
        "a missing key of a table in one line",
        &[("{ from = \"$.paidAt\", type", "{ type")],
    ),
    ("a wrong type", &[("queue = \"payments\"", "queue = 5")]),
    (
        "a table instead of a value",
        &[("queue = \"payments\"", "queue = { name = \"payments\" }")],
    ),
    (
        "a value instead of a table",
        &[(
            "[engines.shop.camunda_tables]",
            "[engines]\nshop = \"camunda\"",
        )],
    ),
    (
        "values instead of sections",
        &[
            ("[inbox]", "routes = 5\n[inbox]"),
            ("[routes.paid]", "[x]"),
            ("[routes.paid.correlate]", "[y]"),
            ("[routes.all]", "[z]"),
            ("[routes.order]", "[w]"),
        ],
    ),
    (
        "a number out of range",
        &[(
            "queue = \"payments\"",
            "queue = \"payments\"\nprefetch_count = 100000",
        )],
    ),
    (
        "zero",
        &[(
            "queue = \"payments\"",
            "queue = \"payments\"\nprefetch_count = 0",
        )],
    ),
    (
        "a negative number",
        &[(
            "queue = \"payments\"",
            "queue = \"payments\"\ndelivery_limit = -1",
        )],
    ),
    ("a duration", &[("\"1h\"", "\"1 hoor\"")]),
    ("a duration without a unit", &[("\"1h\"", "3600")]),
    (
        "a size",
        &[(
            "group_id = \"sluice\"",
            "group_id = \"sluice\"\nprefetch = \"lots\"",
        )],
    ),
    (
        "an unknown word",
        &[("ttl = \"1h\"", "on_no_match = \"strat\"")],
    ),
    (
        "an unknown word like no other",
        &[("ttl = \"1h\"", "on_no_match = \"explode\"")],
    ),
    ("a date", &[("\"1h\"", "2026-01-01")]),
    (
        "an address",
        &[("[inbox]", "[http]\nlisten = \"localhost\"\n[inbox]")],
    ),
    ("a path that is none", &[("\"$.amount\"", "\"$.amount[\"")]),
    (
        "a property that is none",
        &[("\"$.orderId\"", "\"@correlationid\"")],
    ),
    (
        "a list instead of an expression",
        &[("\"$.orderId\"", "[\"$.orderId\"]")],
    ),
    (
        "an unknown key of a variable",
        &[("type = \"date\"", "typ = \"date\"")],
    ),
    (
        "an unknown type of a variable",
        &[("type = \"date\"", "type = \"datum\"")],
    ),
    (
        "a wrong type of a condition",
        &[(
            "{ header = \"type\", equals = \"PaymentReceived\" }",
            "\"always\"",
        )],
    ),
    ("an unknown key of a condition", &[("equals =", "equal =")]),
    (
        "a condition without a comparison",
        &[(", equals = \"PaymentReceived\"", "")],
    ),
    ("a condition about nothing", &[("header = \"type\", ", "")]),
    (
        "a condition in a list",
        &[(
            "{ header = \"type\", equals = \"PaymentReceived\" }",
            "[{ header = \"a\", exists = true }, { header = \"b\", value = \"$.b\", one_of = [] }]",
        )],
    ),
    ("a variable that is not set", &[("DATABASE_URL", "NO_URL")]),
    (
        "a variable that is not closed",
        &[("${DATABASE_URL}", "${DATABASE_URL")],
    ),
    ("a variable without a name", &[("${DATABASE_URL}", "${}")]),
    (
        "a wrong type from the environment",
        &[(
            "queue = \"payments\"",
            "queue = \"payments\"\nprefetch_count = \"${WORD}\"",
        )],
    ),
    (
        "a file of a secret that is missing",
        &[(
            "url = \"${DATABASE_URL}\"",
            "url_file = \"/does/not/exist\"",
        )],
    ),
    (
        "a secret twice",
        &[(
            "url = \"${DATABASE_URL}\"",
            "url = \"${DATABASE_URL}\"\nurl_file = \"/x\"",
        )],
    ),
    (
        "a database of another kind",
        &[("${DATABASE_URL}", "mysql://db/x")],
    ),
    (
        "a schema that is no identifier",
        &[("url = ", "schema = \"a b\"\nurl = ")],
    ),
    (
        "a retention upside down",
        &[(
            "url = ",
            "retention = { payload = \"5d\", key = \"1d\" }\nurl = ",
        )],
    ),
    (
        "a lock that is waited for as long as a statement runs",
        &[("url = ", "statement_timeout = \"5s\"\nurl = ")],
    ),
    (
        "an empty batch",
        &[("[inbox]", "[intake]\nmax_batch = 0\n[inbox]")],
    ),
    (
        "a batch larger than its room in the order",
        &[("[inbox]", "[intake]\nmax_batch = 65536\n[inbox]")],
    ),
    (
        "two sources of one group that read one topic",
        &[(
            "[sources.orders.kafka]",
            "[sources.again.kafka]\nbootstrap_servers = \"localhost:9092\"\ntopics = [\"orders\"]\ngroup_id = \"sluice\"\n[sources.orders.kafka]",
        )],
    ),
    (
        "a source of no broker",
        &[(
            "[sources.orders.kafka]\nbootstrap_servers = \"localhost:9092\"\ntopics = [\"orders\"]\ngroup_id = \"sluice\"",
            "[sources.orders]",
        )],
    ),
    (
        "a source of two brokers",
        &[(
            "[engines.shop",
            "[sources.orders.rabbitmq]\nuris = [\"amqp://x\"]\nqueue = \"q\"\n[engines.shop",
        )],
    ),
    (
        "a source of two brokers, one of which lacks a key",
        &[(
            "[engines.shop",
            "[sources.orders.rabbitmq]\nuris = [\"amqp://x\"]\n[engines.shop",
        )],
    ),
    (
        "a source that no route reads",
        &[
            ("source = \"orders\"", "source = \"payments\""),
            (
                "[routes.all]",
                "[routes.all]\nwhen = { header = \"a\", exists = true }",
            ),
        ],
    ),
    (
        "a name with a space",
        &[("[routes.order]", "[routes.\"My order\"]")],
    ),
    (
        "a URI of another protocol",
        &[("amqp://localhost", "http://localhost")],
    ),
    (
        "a setting that Sluice decides",
        &[(
            "group_id = \"sluice\"",
            "group_id = \"sluice\"\nlibrdkafka_options = { \"enable.auto.commit\" = \"true\" }",
        )],
    ),
    (
        "a setting that librdkafka does not know",
        &[(
            "group_id = \"sluice\"",
            "group_id = \"sluice\"\n[sources.orders.kafka.librdkafka_options]\n\"no.such.thing\" = \"true\"",
        )],
    ),
    (
        "an engine of no kind",
        &[("[engines.shop.camunda_tables]", "[engines.shop]")],
    ),
    (
        "an engine's tables on SQLite",
        &[("${DATABASE_URL}", "sqlite:sluice.db")],
    ),
    (
        "a source that is not there",
        &[("source = \"orders\"", "source = \"order\"")],
    ),
    (
        "an engine that is not there",
        &[(
            "[routes.all]\nsource = \"payments\"\nengine = \"shop\"",
            "[routes.all]\nsource = \"payments\"\nengine = \"camunda\"",
        )],
    ),
    (
        "two shapes of a route",
        &[(
            "[routes.all]",
            "[routes.paid.start]\nmessage_name = \"x\"\n[routes.all]",
        )],
    ),
    (
        "the shape of another engine",
        &[
            (
                "[routes.paid.correlate]\nmessage_name = \"PaymentReceived\"",
                "[routes.paid.apply]",
            ),
            ("ttl = \"1h\"", ""),
        ],
    ),
    (
        "a start by nothing",
        &[
            (
                "[routes.paid.correlate]\nmessage_name = \"PaymentReceived\"",
                "[routes.paid.start]",
            ),
            ("ttl = \"1h\"", ""),
        ],
    ),
    (
        "a tenant and none",
        &[("ttl = \"1h\"", "tenant_id = \"a\"\nwithout_tenant = true")],
    ),
    (
        "a key that is always the same",
        &[("\"$.paymentId\"", "\"paymentId\"")],
    ),
    (
        "coordinates of a queue",
        &[("\"$.paymentId\"", "\"@coordinates\"")],
    ),
    (
        "a message id of a topic",
        &[(
            "[routes.order]",
            "[routes.order]\ndedup_key = \"@message_id\"",
        )],
    ),
    (
        "order on SQLite",
        &[
            ("${DATABASE_URL}", "sqlite:sluice.db"),
            ("dedup_key =", "order_by = \"$.a\"\ndedup_key ="),
        ],
    ),
    (
        "a scope of what could not be decoded",
        &[("dedup_key =", "dedup_scope = \"!payments\"\ndedup_key =")],
    ),
    (
        "a scope without a name",
        &[("dedup_key =", "dedup_scope = \" \"\ndedup_key =")],
    ),
    (
        "a route that would be such a scope",
        &[("[routes.order]", "[routes.\"!order\"]")],
    ),
    (
        "keys that are not kept",
        &[(
            "url = ",
            "retention = { payload = \"0s\", key = \"0s\" }\nurl = ",
        )],
    ),
    (
        "a transaction that has no time",
        &[("[inbox]", "[intake]\ntransaction_timeout = \"0s\"\n[inbox]")],
    ),
    (
        "a sweeper that spins and takes nothing",
        &[(
            "[inbox]",
            "[sweeper]\nbusy_interval = \"0s\"\nlimit = 0\nlimit_bytes = \"0B\"\n[inbox]",
        )],
    ),
    (
        "a sweeper whose pauses are upside down",
        &[("[inbox]", "[sweeper]\nbusy_interval = \"1m\"\n[inbox]")],
    ),
    (
        "a node without a name",
        &[("[inbox]", "[node]\nname = \"${EMPTY}\"\n[inbox]")],
    ),
    (
        "a queue that is given no room and no time",
        &[(
            "queue = \"payments\"",
            "queue = \"payments\"\nprefetch = \"0B\"\nconnect_timeout = \"0s\"",
        )],
    ),
    (
        "topics without a server, in no time",
        &[(
            "\"localhost:9092\"",
            "\"kafka:9092,${WORD}:port\"\nconnect_timeout = \"0s\"\nsession_timeout = \"1ms\"",
        )],
    ),
    (
        "a URL that cannot be read",
        &[("${DATABASE_URL}", "postgres://sluice:hunter2@db:x/engine")],
    ),
    (
        "a URL that cannot be read, from the environment",
        &[(
            "${DATABASE_URL}",
            "postgres://u:${WORD}@db/x?sslmode=${WORD}",
        )],
    ),
    (
        "a database in memory",
        &[("${DATABASE_URL}", "sqlite::memory:")],
    ),
    (
        "a token of nothing",
        &[("[inbox]", "[http]\ntoken = \"${EMPTY} \"\n[inbox]")],
    ),
    ("a time to live of nothing", &[("\"1h\"", "\"0s\"")]),
    (
        "attempts without a delay",
        &[(
            "[routes.all]",
            "[routes.paid.attempts]\nmax = 0\ninitial_interval = \"0s\"\nmultiplier = 0.5\n[routes.all]",
        )],
    ),
    (
        "a route that is never reached",
        &[(
            "when = { header = \"type\", equals = \"PaymentReceived\" }",
            "",
        )],
    ),
    (
        "a route that gives statements nothing",
        &[
            (
                "[engines.shop.camunda_tables]",
                "[engines.shop.sql]\napply = \"DELETE FROM x\"",
            ),
            (
                "[routes.paid.correlate]\nmessage_name = \"PaymentReceived\"",
                "[routes.paid.apply]",
            ),
            ("ttl = \"1h\"", ""),
        ],
    ),
    (
        "a parameter that the route does not map",
        &[
            (
                "[engines.shop.camunda_tables]",
                "[engines.shop.camunda_tables]\n[engines.x.sql]\napply = \"INSERT INTO x VALUES (:amount, :colour, :dedup_key)\"",
            ),
            (
                "[routes.paid]\nsource = \"payments\"\nengine = \"shop\"",
                "[routes.paid]\nsource = \"payments\"\nengine = \"x\"",
            ),
            (
                "[routes.paid.correlate]\nmessage_name = \"PaymentReceived\"",
                "[routes.paid.apply]",
            ),
            ("ttl = \"1h\"", ""),
        ],
    ),
    (
        "a statement that would commit",
        &[(
            "[engines.shop.camunda_tables]",
            "[engines.shop.camunda_tables]\n[engines.x.sql]\napply = \"COMMIT\"",
        )],
    ),
    (
        "a misspelled level",
        &[("[inbox]", "[log]\nlevel = \"inof\"\n[inbox]")],
    ),
];

#[test]
fn each_kind_of_mistake_says_where_and_what_was_expected() {
    let mut shown = String::new();
    for (about, replacements) in MISTAKES {
        let Err(report) = load(&spoiled(replacements)) else {
            panic!("{about}: there is no mistake");
        };
        let _ = writeln!(shown, "=== {about}\n{}", report.render(Look::Plain));
    }
    insta::assert_snapshot!(shown);
}

/// As [`MISTAKES`]; these load all the same.
const DOUBTS: &[(&str, &[(&str, &str)])] = &[
    (
        "an engine that no route uses",
        &[(
            "[engines.shop",
            "[engines.old.camunda_tables]\n[engines.shop",
        )],
    ),
    (
        "order without a key",
        &[("dedup_key =", "order_scope = \"a\"\ndedup_key =")],
    ),
    (
        "an expiry that never comes",
        &[("ttl = \"1h\"", "on_expiry = \"ignore\"")],
    ),
    (
        "a time to live that is not used",
        &[("ttl = \"1h\"", "ttl = \"1h\"\non_no_match = \"dead\"")],
    ),
    (
        "pages for everybody",
        &[("[inbox]", "[http]\nlisten = \"0.0.0.0:9464\"\n[inbox]")],
    ),
    (
        "a token that is soon guessed",
        &[("[inbox]", "[http]\ntoken = \"123456789012345\"\n[inbox]")],
    ),
    ("few connections", &[("url = ", "connections = 3\nurl = ")]),
];

#[test]
fn what_is_doubtful_is_a_warning() {
    let mut shown = String::new();
    for (about, replacements) in DOUBTS {
        let (_, report) = good(&spoiled(replacements));
        assert!(!report.is_empty(), "{about}");
        let _ = writeln!(shown, "=== {about}\n{}", report.render(Look::Plain));
    }
    insta::assert_snapshot!(shown);
}

/// What slips from a keyboard.
const TYPED: [&str; 16] = [
    "\"", "'", "\"\"\"", "=", "[", "]", "{", "}", "#", ".", ",", "${", "\n", "5", "é", "a",
];

proptest! {
    /// Spans, masks and stand-ins must fit whatever is in the file: nothing may panic or go round in circles.
    #[test]
    fn whatever_is_typed_is_answered(
        edits in prop::collection::vec((0_usize..2_000, 0_usize..12, 0..TYPED.len()), 1..5),
    ) {
        let mut text: Vec<char> = GOOD.chars().collect();
        for (at, deleted, typed) in edits {
            let at = at % text.len();
            let end = (at + deleted).min(text.len());
            text.splice(at..end, TYPED[typed].chars());
        }
        let text = String::from_iter(text);
        let report = match load(&text) {
            Ok((_, report)) => report,
            Err(report) => {
                prop_assert!(report.has_errors());
                report
            }
        };
        for mistake in &report.mistakes {
            let (line, column) = report.position(mistake);
            prop_assert!(line <= text.lines().count() + 1 && column >= 1);
        }
        for look in [Look::Plain, Look::Graphical] {
            let shown = report.render(look);
            prop_assert!(report.is_empty() || shown.contains("sluice.toml:"), "{shown}");
            prop_assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
