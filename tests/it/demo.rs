//! `sluice demo`, as a process: it needs no server of the rig.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::rig::eventually;

/// Starting, sending for 8 s, waiting for what a killed daemon had, stopping; on a busy machine.
const LIMIT: Duration = Duration::from_mins(3);

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command
        .arg("demo")
        .args(arguments)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn played(arguments: &[&str]) -> Output {
    let output = tokio::time::timeout(LIMIT, demo(arguments).output()).await;
    output.expect("the demo comes to its end").unwrap()
}

fn numbers(output: &Output) -> impl Fn(&str) -> u64 {
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"));
    move |key| {
        report[key]
            .as_u64()
            .unwrap_or_else(|| panic!("{key} in {report}"))
    }
}

#[tokio::test]
async fn nothing_is_lost_and_nothing_doubled_when_a_daemon_is_killed() {
    let output = played(&["--for", "8s", "--json"]).await;
    let number = numbers(&output);
    assert_eq!((number("lost"), number("doubled")), (0, 0));
    assert_eq!(number("effects"), number("unique"));
    assert!(number("sent") > number("unique"), "the producer resends");
    assert!(number("unique") > 500, "{} messages", number("unique"));
    let resent = number("sent") - number("unique");
    assert!(number("duplicates") >= resent, "every resend is noticed");
    assert!(number("early") > 0 && number("redriven") > 0);
    assert!(output.status.success(), "{}", output.status);
}

#[tokio::test]
async fn broken_deduplication_shows_as_doubled_effects() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("demo");
    let dir = kept.to_str().unwrap();
    let output = played(&[
        "--for",
        "4s",
        "--json",
        "--dir",
        dir,
        "--break-deduplication",
    ])
    .await;
    let number = numbers(&output);
    assert!(number("doubled") > 0, "resent payments are paid twice");
    assert_eq!(number("lost"), 0);
    assert_eq!(number("effects"), number("unique") + number("doubled"));
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains(dir), "where to look: {told}");
    assert!(kept.join("sluice.toml").exists() && kept.join("two.log").exists());
}

/// The address of the status page, which the demo tells when both daemons read.
async fn status_page(child: &mut Child) -> String {
    let stderr = child.stderr.take().expect("it is piped");
    let mut lines = BufReader::new(stderr).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some((_, address)) = line.split_once("http://") {
            return address.trim_end_matches('/').to_owned();
        }
    }
    panic!("the demo ended and told no address");
}

#[tokio::test]
async fn no_daemon_outlives_the_demo() {
    let folder = tempfile::tempdir().unwrap();
    let started = |dir: &Path| {
        let mut command = demo(&["--for", "1h", "--dir", dir.to_str().unwrap()]);
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut child = started(folder.path());
    let page = tokio::time::timeout(LIMIT, status_page(&mut child));
    let page = page.await.expect("both daemons read");
    TcpStream::connect(&page).await.expect("the page is served");
    child.kill().await.unwrap();
    eventually("the daemon's end", LIMIT, async || {
        TcpStream::connect(&page).await.is_err().then_some(())
    })
    .await;
}
