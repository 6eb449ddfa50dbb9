//! The command line, as a person or a script meets it: the program as a process.

mod bench;
mod connect;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sluice::inbox::postgres::PostgresInbox;
use sluice::inbox::sqlite::SqliteInbox;
use sluice::inbox::{NewRow, State};
use sluice::message::DeadReason;
use tempfile::TempDir;

use crate::inbox::{Fresh, Kept, fresh, rows, url_in};
use crate::rig::{Database, Rig};

/// A configuration that needs no server to be checked.
const SMALL: &str = r#"
[inbox]
url = "postgres://localhost/nowhere"

[sources.payments.rabbitmq]
uris = ["amqp://localhost"]
queue = "payments"

[engines.shop.camunda_tables]

[routes.paid]
source = "payments"
engine = "shop"
"#;

/// One that any database may serve.
const TABLE: &str = r#"
[http]
listen = "127.0.0.1:0"

[inbox]
url = "sqlite:nowhere.db"

[sources.payments.rabbitmq]
uris = ["amqp://localhost"]
queue = "payments"

[engines.shop.sql]
apply = "INSERT INTO payment (message) VALUES (:dedup_key)"

[routes.paid]
source = "payments"
engine = "shop"
apply = {}
"#;

/// A folder with a `sluice.toml` in it, in which the program runs.
struct Folder(TempDir);

impl Folder {
    fn with(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("sluice.toml"), text).unwrap();
        Self(folder)
    }

    fn sluice(&self, arguments: &[&str]) -> Said {
        sluice(self.0.path(), arguments)
    }
}

/// What the program said, and how it ended.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{}{}", self.out, self.err))
    }
}

fn sluice(folder: &Path, arguments: &[&str]) -> Said {
    let Output {
        status,
        stdout,
        stderr,
    } = program(folder).args(arguments).output().unwrap();
    Said {
        code: status.code().expect("no signal ends it"),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

fn program(folder: &Path) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_sluice"));
    program
        .current_dir(folder)
        .env_remove("SLUICE_CONFIG")
        .env_remove("RUST_LOG");
    program
}

#[test]
fn every_end_has_its_exit_code() {
    let good = Folder::with(SMALL);
    let bad = Folder::with(&SMALL.replace("queue", "queu"));
    let unreadable = Folder::with(&SMALL.replace("localhost/", "localhost:x/"));
    let empty = Folder(tempfile::tempdir().unwrap());
    for (folder, arguments, code, says) in [
        (&good, &["check"][..], 0, "1 source, 1 route, 1 engine"),
        (&good, &["check", "-c", "sluice.toml"], 0, "no mistakes"),
        (&good, &["--version"], 0, "sluice 0."),
        (&good, &["help", "inbox", "redrive"], 0, "--dry-run"),
        (&good, &[], 2, "Usage"),
        (&good, &["fly"], 2, "unrecognized subcommand 'fly'"),
        (
            &good,
            &["check", "--log-level", "inof"],
            2,
            "`inof` is no level",
        ),
        (
            &good,
            &["inbox", "list", "--state", "sleeping"],
            2,
            "waiting, handed, done, dead",
        ),
        (
            &good,
            &["inbox", "list", "--reason", "bad_luck"],
            2,
            "in_doubt",
        ),
        (
            &good,
            &["inbox", "list", "--since", "2 moons"],
            2,
            "30m, 2h or 3d",
        ),
        (&good, &["inbox", "show", "4711"], 2, "a row's id"),
        (&good, &["inbox", "redrive"], 2, "--all"),
        (&good, &["inbox", "discard", "--dry-run"], 2, "--all"),
        (
            &good,
            &["inbox", "redrive", "--state", "handed"],
            2,
            "only dead and waiting rows can be redriven: a handed row's job is in the engine",
        ),
        (
            &good,
            &["inbox", "discard", "--state", "done", "--key", "k"],
            2,
            "only dead and waiting rows can be discarded: a done row had its effect",
        ),
        (&good, &["check", "-c", "missing.toml"], 78, "missing.toml"),
        (&empty, &["check"], 2, "name a file with -c"),
        (&bad, &["check"], 78, "unknown key `queu`"),
        (&bad, &["run"], 78, "did you mean `queue`?"),
        (&bad, &["migrate"], 78, "sluice.toml:5:19"),
        (&unreadable, &["run"], 78, "invalid port number"),
        (&bad, &["inbox", "list"], 78, "queu = \"payments\""),
    ] {
        let said = folder.sluice(arguments);
        let all = format!("{}{}", said.out, said.err);
        assert_eq!(said.code, code, "{arguments:?}: {all}");
        assert!(all.contains(says), "{arguments:?}: {all}");
    }
}

#[test]
fn the_help_explains_every_command() {
    let folder = Folder::with(SMALL);
    let mut help = String::new();
    for command in [
        &["--help"][..],
        &["run", "--help"],
        &["check", "--help"],
        &["migrate", "--help"],
        &["inbox", "--help"],
        &["inbox", "list", "--help"],
        &["inbox", "show", "--help"],
        &["inbox", "redrive", "--help"],
        &["inbox", "discard", "--help"],
        &["positions", "--help"],
        &["positions", "list", "--help"],
        &["positions", "set", "--help"],
    ] {
        writeln!(help, "$ sluice {}", command.join(" ")).unwrap();
        let said = folder.sluice(command).out;
        // The same everywhere: seen once is enough.
        match said.split_once("Global options:") {
            Some((before, after)) if command.len() > 1 => {
                let after = after.split_once("One object a line\n").unwrap().1;
                writeln!(help, "{before}Global options: …\n{after}").unwrap();
            }
            _ => writeln!(help, "{said}").unwrap(),
        }
    }
    insta::assert_snapshot!(help);
}

#[test]
fn the_mistakes_of_a_file_can_be_read_by_a_program() {
    let folder = Folder::with(&SMALL.replace("queue", "queu"));
    let said = folder.sluice(&["check", "--json"]);
    assert_eq!((said.code, said.err.as_str()), (78, ""));
    let found = said.json();
    assert_eq!(found["ok"], false);
    assert_eq!(found["mistakes"][1]["line"], 7);
    assert_eq!(found["mistakes"][1]["column"], 1);
    assert_eq!(found["mistakes"][1]["help"], "did you mean `queue`?");
}

#[test]
fn the_file_may_be_named_by_the_environment() {
    let folder = Folder::with(SMALL);
    let elsewhere = tempfile::tempdir().unwrap();
    let output = program(elsewhere.path())
        .arg("check")
        .env("SLUICE_CONFIG", folder.0.path().join("sluice.toml"))
        .output()
        .unwrap();
    assert!(output.status.success());
}

#[test]
fn the_schema_is_for_editors_and_completions_are_for_shells() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let schema = folder.sluice(&["schema"]).json();
    for section in ["inbox", "http", "sources", "engines", "routes", "log"] {
        assert!(schema["properties"][section].is_object(), "{section}");
    }
    // A secret may stand in a file of its own, and then the key itself is not needed.
    let inbox = &schema["$defs"]["InboxConfig"];
    assert!(inbox["properties"]["url_file"].is_object());
    assert!(
        !inbox["required"]
            .as_array()
            .unwrap()
            .contains(&"url".into())
    );
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = folder.sluice(&["completions", shell]).out;
        assert!(script.contains("redrive"), "{shell}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = program(folder.path())
        .arg("schema")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// A dead row with this reason.
fn dead(key: &str, reason: DeadReason) -> NewRow {
    NewRow {
        state: State::Dead {
            reason,
            detail: "somebody must look".to_owned(),
        },
        ..rows::row(key)
    }
}

/// An inbox with three dead rows and a waiting one, and a folder whose configuration points at it.
async fn inbox<I: Kept>(url: impl Fn(&I::Place) -> String) -> (Folder, I::Place) {
    let Fresh { inbox, place } = fresh::<I>().await;
    let mut evil = dead("evil", DeadReason::NotJson);
    evil.payload = bytes::Bytes::from_static(b"\x1b[2Jnot json");
    let all = [
        dead("a", DeadReason::Mapping),
        dead("b", DeadReason::Mapping),
        evil,
        rows::row("w"),
    ];
    assert_eq!(rows::insert(&inbox, &all).await.len(), 4);
    let text = TABLE.replace("sqlite:nowhere.db", &url(&place));
    (Folder::with(&text), place)
}

async fn on_postgres() -> (Folder, Database) {
    inbox::<PostgresInbox>(Database::url).await
}

async fn on_sqlite() -> (Folder, TempDir) {
    inbox::<SqliteInbox>(url_in).await
}

fn ids(listed: &Value) -> Vec<String> {
    let rows = listed.as_array().unwrap().iter();
    rows.map(|row| row["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_listed_by_what_they_are_and_shown_whole() {
    let (folder, _place) = on_postgres().await;
    lists_and_shows(&folder);
    let (folder, _place) = on_sqlite().await;
    lists_and_shows(&folder);
}

fn lists_and_shows(folder: &Folder) {
    let list = |arguments: &[&str]| {
        let said = folder.sluice(&[&["inbox", "list", "--json"], arguments].concat());
        assert_eq!(said.code, 0, "{}", said.err);
        ids(&said.json())
    };
    assert_eq!(list(&[]).len(), 4);
    assert_eq!(list(&["--state", "dead"]).len(), 3);
    assert_eq!(list(&["--reason", "mapping"]).len(), 2);
    assert_eq!(list(&["--key", "w"]).len(), 1);
    assert_eq!(list(&["--route", "orders", "--since", "1h"]).len(), 4);
    assert_eq!(list(&["--route", "nobody"]).len(), 0);
    let newest = list(&["--limit", "1"]);
    assert_eq!(list(&["--before", &newest[0]]).len(), 3);

    let table = folder.sluice(&["inbox", "list", "--state", "dead", "--limit", "3"]);
    assert!(table.out.starts_with("ID "), "{}", table.out);
    assert!(table.out.contains("somebody must look"), "{}", table.out);
    assert_eq!(table.out.lines().count(), 4, "{}", table.out);
    assert!(table.err.contains("--before"), "{}", table.err);

    let evil = list(&["--reason", "not_json"]);
    let shown = folder.sluice(&["inbox", "show", &evil[0]]);
    assert!(shown.out.contains("not json"), "{}", shown.out);
    assert!(!shown.out.contains('\u{1b}'), "it speaks to the terminal");
    let shown = folder.sluice(&["inbox", "show", "--json", &evil[0]]).json();
    assert_eq!(shown["reason"], "not_json");
    assert_eq!(shown["envelope"]["message_id"], "1");

    let nobody = "00000000-0000-7000-8000-000000000000";
    let said = folder.sluice(&["inbox", "show", nobody]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains(nobody), "{}", said.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_redrives_and_discards_what_was_looked_at_before() {
    let (folder, _place) = on_postgres().await;
    redrives_and_discards(&folder);
    let (folder, _place) = on_sqlite().await;
    redrives_and_discards(&folder);
}

fn redrives_and_discards(folder: &Folder) {
    let mapping = ["--state", "dead", "--reason", "mapping"];
    let redrive = |more: &[&str]| {
        let said = folder.sluice(&[&["inbox", "redrive"], &mapping[..], more].concat());
        assert_eq!(said.code, 0, "{}", said.err);
        said.out
    };
    assert_eq!(redrive(&["--dry-run"]), "2 rows would be redriven\n");
    assert_eq!(redrive(&["--limit", "1"]), "1 row redriven\n");
    assert_eq!(redrive(&["--dry-run"]), "1 row would be redriven\n");
    assert_eq!(redrive(&[]), "1 row redriven\n");
    assert_eq!(redrive(&[]), "0 rows redriven\n");

    let listed = folder.sluice(&["inbox", "list", "--json", "--reason", "not_json"]);
    let id = ids(&listed.json()).remove(0);
    let discarded = folder.sluice(&["inbox", "discard", "--json", &id]).json();
    assert_eq!(discarded["rows"], 1);
    let all = ["inbox", "discard", "--all"];
    let dry = folder.sluice(&[&all[..], &["--dry-run"]].concat());
    assert_eq!(dry.out, "3 rows would be discarded\n");
    assert_eq!(folder.sluice(&all).out, "3 rows discarded\n");
    let done = folder.sluice(&["inbox", "list", "--json", "--state", "done"]);
    assert_eq!(ids(&done.json()).len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn before_migrate_every_command_says_that_it_is_missing_and_makes_no_file() {
    let database = Rig::get().database().await;
    let on_postgres = Folder::with(&TABLE.replace("sqlite:nowhere.db", &database.url()));
    let on_sqlite = Folder::with(TABLE);
    for folder in [&on_postgres, &on_sqlite] {
        for command in [
            &["inbox", "list"][..],
            &["inbox", "show", "00000000-0000-7000-8000-000000000000"],
            &["inbox", "redrive", "--all"],
            &["inbox", "discard", "--all"],
            &["run"],
        ] {
            let said = folder.sluice(command);
            assert_eq!(said.code, 1, "{command:?}: {}{}", said.out, said.err);
            let missing = "Sluice's tables are missing: run `sluice migrate`";
            assert!(said.err.contains(missing), "{command:?}: {}", said.err);
        }
        let said = folder.sluice(&["check", "--connect"]);
        assert!(
            said.out.contains("x Sluice's tables are missing"),
            "{}",
            said.out
        );
    }
    assert!(!on_sqlite.0.path().join("nowhere.db").exists());
    assert_eq!(on_sqlite.sluice(&["migrate"]).code, 0);
    assert_eq!(on_sqlite.sluice(&["inbox", "list"]).code, 0);
}

#[test]
fn what_needs_the_database_alone_asks_for_no_variable_of_another_section() {
    let text = TABLE
        .replace("127.0.0.1:0", "127.0.0.1:${NOBODY_SET_THIS}")
        .replace("\"amqp://localhost\"", "\"${NOBODY_SET_THIS}\"")
        .replace(
            "\"payments\"\n\n[engines",
            "\"${NOBODY_SET_THIS}\"\nprefetch_count = \"${NOBODY_SET_THIS}\"\n\n[engines",
        )
        .replace(
            "\"INSERT INTO payment (message) VALUES (:dedup_key)\"",
            "\"${NOBODY_SET_THIS}\"",
        );
    let folder = Folder::with(&text);
    for command in [
        &["migrate"][..],
        &["inbox", "list"],
        &["inbox", "redrive", "--all"],
        &["positions", "list"],
    ] {
        let said = folder.sluice(command);
        assert_eq!(said.code, 0, "{command:?}: {}", said.err);
        assert_eq!(said.err, "", "{command:?}");
    }
    let set = [
        "positions",
        "set",
        "--source",
        "payments",
        "--topic",
        "t",
        "--to",
        "latest",
    ];
    for command in [&["run"][..], &["check"], &set] {
        let said = folder.sluice(command);
        assert_eq!(said.code, 78, "{command:?}: {}", said.err);
        let unset = "the environment variable NOBODY_SET_THIS is not set";
        assert!(said.err.contains(unset), "{command:?}: {}", said.err);
    }
    // What is wrong with another section is said all the same, and what the command needs must be there.
    let wrong = Folder::with(&text.replace("queue =", "queu ="));
    assert_eq!(wrong.sluice(&["migrate"]).code, 78);
    let needed = Folder::with(&text.replace("nowhere.db", "${NOBODY_SET_THIS}"));
    let said = needed.sluice(&["migrate"]);
    assert_eq!(said.code, 78);
    assert_eq!(
        said.err.matches("NOBODY_SET_THIS is not set").count(),
        1,
        "{}",
        said.err
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_says_once_and_at_once_why_the_database_cannot_be_used() {
    let database = Rig::get().database().await;
    let url = database.url();
    let nobody = url.replace("postgres@", "nobody_knows_me@");
    let nowhere = url.replace(database.name(), "no_such_database");
    for (url, why) in [
        (nobody.as_str(), "role \"nobody_knows_me\" does not exist"),
        (&nowhere, "database \"no_such_database\" does not exist"),
        (
            "postgres://x@127.0.0.1:1/y",
            "127.0.0.1:1: Connection refused (os error 111)",
        ),
    ] {
        let folder = Folder::with(&TABLE.replace("sqlite:nowhere.db", url));
        for command in [
            &["inbox", "list"][..],
            &["migrate"],
            &["check", "--connect"],
        ] {
            let began = Instant::now();
            let said = folder.sluice(command);
            let all = format!("{}{}", said.out, said.err);
            assert_eq!(said.code, 1, "{command:?}: {all}");
            assert_eq!(all.matches(why).count(), 1, "{command:?}: {all}");
            if command == ["check", "--connect"] {
                assert!(all.contains("engine shop\n  ! not looked at"), "{all}");
            } else {
                assert!(
                    began.elapsed() < Duration::from_secs(4),
                    "{:?}",
                    began.elapsed()
                );
            }
        }
    }
}
