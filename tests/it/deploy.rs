//! The files that put the daemon on a machine.

mod order;

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::daemon::{Config, Daemon};
use crate::rig::{QueueKind, Rig};

fn file(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "deploy", name]
        .iter()
        .collect()
}

/// The unit with the program where cargo built it, because a missing one is a mistake, too.
fn unit() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sluice.service");
    let text = std::fs::read_to_string(file("sluice.service")).unwrap();
    let built = text.replace("/usr/bin/sluice", env!("CARGO_BIN_EXE_sluice"));
    assert_ne!(text, built);
    std::fs::write(&path, built).unwrap();
    (folder, path)
}

fn assert_succeeds(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
}

#[test]
fn systemd_understands_every_line_of_the_unit() {
    let (_folder, unit) = unit();
    let mut verify = Command::new("systemd-analyze");
    assert_succeeds(
        verify
            .args(["verify", "--recursive-errors=no", "--man=no"])
            .arg(unit),
    );
}

#[test]
fn the_unit_gives_away_no_more_than_the_daemon_needs() {
    let (_folder, unit) = unit();
    let mut security = Command::new("systemd-analyze");
    // Tenths of systemd's measure of exposure, from 0 to 100; what is left is the network.
    security.args(["security", "--offline=true", "--no-pager", "--threshold=15"]);
    assert_succeeds(security.arg(unit));
}

#[test]
fn the_dockerfile_has_no_lint() {
    assert_succeeds(Command::new("hadolint").arg(file("Dockerfile")));
}

#[tokio::test]
async fn systemd_is_told_when_the_daemon_is_ready_and_when_it_stops() {
    let rig = Rig::get();
    let schema = rig.schema();
    let queue = rig.queue(QueueKind::Classic).await;
    let route = "[routes.payment]\nsource = \"payments\"\nengine = \"shop\"\n";
    let config = Config::on(&schema)
        .rabbitmq("payments", &queue, "")
        .camunda_tables("shop", "")
        .with(route);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let told = || {
        let mut datagram = [0; 256];
        let length = socket
            .recv(&mut datagram)
            .expect("systemd is told something");
        String::from_utf8_lossy(&datagram[..length])
            .trim()
            .to_owned()
    };

    let daemon = Daemon::start(&config, &[("NOTIFY_SOCKET", path.to_str().unwrap())]).await;
    assert_eq!(told(), "READY=1");
    daemon.stop().await;
    assert_eq!(told(), "STOPPING=1");
}
