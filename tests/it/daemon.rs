//! The real daemon: the program that cargo built, as a process of its own.
//!
//! A test writes a configuration ([`Config`]), starts it, sends it signals and sees what anybody sees:
//! health, metrics, the status, the exit code. The listener takes any free port. Its tables are made
//! before it starts, by their owner, and it has the rights that deploy/grants.sql gives, and no more. A daemon
//! is killed with this value, and also when the test process ends in any other way; what it logged is shown
//! when the test fails. Knows nothing of what is in Sluice's tables.

mod config;
mod metrics;
mod rights;

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;
use tempfile::TempDir;

use crate::rig::eventually;

pub use config::{Config, Rights};
pub use metrics::Metrics;
pub use rights::Place;

/// How long a daemon may take to do what it does at once on an idle machine.
pub const LIMIT: Duration = Duration::from_mins(1);
/// How much of a log a failing test shows.
const SHOWN: usize = 80;

/// What a process can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Term,
    Int,
    Kill,
    Stop,
    Cont,
}

/// One daemon, running or ended.
pub struct Daemon {
    folder: TempDir,
    process: Mutex<Child>,
    log: PathBuf,
    address: String,
    starts: u32,
    migrates: bool,
    program: PathBuf,
    token: Option<String>,
}

impl Daemon {
    /// Starts it and waits until it is ready. `environment` comes on top of the test's own.
    pub async fn start(config: &Config, environment: &[(&str, &str)]) -> Daemon {
        let daemon = Daemon::spawn(config, environment).await;
        daemon.until_ready().await;
        daemon
    }

    /// Starts it and waits only until it listens: it may never become ready.
    pub async fn spawn(config: &Config, environment: &[(&str, &str)]) -> Daemon {
        let folder = tempfile::tempdir().unwrap();
        if let Some(place) = config.place() {
            let owner = folder.path().join("owner.toml");
            std::fs::write(&owner, config.text()).unwrap();
            place.prepare(&owner).await;
        }
        std::fs::write(folder.path().join("sluice.toml"), config.text_of_daemon()).unwrap();
        let log = folder.path().join("log-1");
        let migrates = config.migrates();
        let program = PathBuf::from(env!("CARGO_BIN_EXE_sluice"));
        let process = run(&program, &folder, &log, migrates, environment);
        let mut daemon = Daemon {
            process: Mutex::new(process),
            folder,
            log,
            address: String::new(),
            starts: 1,
            migrates,
            program,
            token: None,
        };
        daemon.until_listening().await;
        daemon
    }

    /// Starts it again after its end, with another environment; does not wait until it is ready.
    pub async fn restart(&mut self, environment: &[(&str, &str)]) {
        assert!(self.exited().is_some(), "the daemon still runs");
        self.starts += 1;
        self.log = self.folder.path().join(format!("log-{}", self.starts));
        let (program, folder) = (&self.program, &self.folder);
        let process = run(program, folder, &self.log, self.migrates, environment);
        self.process = Mutex::new(process);
        self.until_listening().await;
    }

    /// Another configuration, for the next [`restart`](Self::restart).
    pub fn configure(&self, config: &Config) {
        let text = config.text_of_daemon();
        std::fs::write(self.folder.path().join("sluice.toml"), text).unwrap();
    }

    /// Another build of the program, for the next [`restart`](Self::restart).
    pub fn install(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// Where its configuration and the logs of all its starts are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file of the configuration, for the program's other subcommands.
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("sluice.toml")
    }

    /// Calls the program once more with the same configuration, as an operator would; returns what it
    /// printed.
    ///
    /// # Panics
    /// When it does not end with 0.
    pub async fn command(&self, arguments: &[&str]) -> String {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_sluice"))
            .args(arguments)
            .arg("-c")
            .arg(self.config_file())
            .env("NO_COLOR", "1")
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?} ended badly: {said}");
        String::from_utf8(output.stdout).expect("what it prints is text")
    }

    /// The token of its listener, which is shown from here on.
    #[must_use]
    pub fn showing(mut self, token: &str) -> Daemon {
        self.token = Some(token.to_owned());
        self
    }

    // === what anybody sees ===

    /// Waits until it does its work.
    ///
    /// # Panics
    /// When it ends instead.
    pub async fn until_ready(&self) {
        eventually("the daemon becoming ready", LIMIT, async || {
            if let Some(status) = self.exited() {
                panic!("the daemon ended with {status} instead of becoming ready");
            }
            self.ready().await.then_some(())
        })
        .await;
    }

    /// Waits until it says that something is in the way; returns what.
    pub async fn until_not_ready(&self) -> Value {
        eventually(
            "the daemon saying that it is not ready",
            LIMIT,
            async || {
                let (status, body) = self.get("/health/ready").await?;
                (status == StatusCode::SERVICE_UNAVAILABLE)
                    .then(|| serde_json::from_str(&body).expect("readiness is JSON"))
            },
        )
        .await
    }

    /// Whether it says now that it does its work.
    pub async fn ready(&self) -> bool {
        matches!(self.get("/health/ready").await, Some((StatusCode::OK, _)))
    }

    /// Whether it says now that it lives.
    pub async fn live(&self) -> bool {
        matches!(self.get("/health/live").await, Some((StatusCode::OK, _)))
    }

    /// What the status page is made of.
    pub async fn status(&self) -> Value {
        let (_, body) = self.get("/api/status").await.expect("the daemon answers");
        serde_json::from_str(&body).expect("the status is JSON")
    }

    /// Everything that it exports for Prometheus.
    pub async fn metrics(&self) -> Metrics {
        let (status, body) = self.get("/metrics").await.expect("the daemon answers");
        assert_eq!(status, StatusCode::OK);
        Metrics::parse(&body)
    }

    /// The sum of the samples of this name that have these labels.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().await.sum(name, labels)
    }

    /// What the samples of this name that have these labels count together.
    pub async fn count(&self, name: &str, labels: &[(&str, &str)]) -> usize {
        self.metrics().await.count(name, labels)
    }

    /// Waits until they count at least this.
    pub async fn until_count(&self, name: &str, labels: &[(&str, &str)], at_least: usize) {
        let what = format!("{name} {labels:?} reaching {at_least}");
        eventually(&what, LIMIT, async || {
            let (_, body) = self.get("/metrics").await?;
            let count = Metrics::parse(&body).count(name, labels);
            (count >= at_least).then_some(())
        })
        .await;
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// `None` when it does not answer.
    pub async fn get(&self, path: &str) -> Option<(StatusCode, String)> {
        let request = crate::rig::http()
            .get(self.url(path))
            .timeout(Duration::from_secs(5));
        let request = match &self.token {
            Some(token) => request.basic_auth("test", Some(token)),
            None => request,
        };
        let response = request.send().await.ok()?;
        Some((response.status(), response.text().await.ok()?))
    }

    /// What it has logged since its last start.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    // === the process ===

    pub fn pid(&self) -> u32 {
        self.process.lock().unwrap().id()
    }

    pub fn signal(&self, signal: Signal) {
        let name = match signal {
            Signal::Term => "-TERM",
            Signal::Int => "-INT",
            Signal::Kill => "-KILL",
            Signal::Stop => "-STOP",
            Signal::Cont => "-CONT",
        };
        // Asked first, so that the id is still this process's.
        if let Some(status) = self.exited() {
            panic!("the daemon ended with {status} before it was sent {signal:?}");
        }
        let sent = Command::new("kill")
            .args([name, &self.pid().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// `None` while it runs.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.process.lock().unwrap().try_wait().unwrap()
    }

    /// Waits until it is stopped, by itself: it exists and does nothing.
    pub async fn until_stopped(&self) {
        let file = format!("/proc/{}/stat", self.pid());
        eventually("the daemon being stopped", LIMIT, async || {
            let stat = std::fs::read_to_string(&file).ok()?;
            let (_, state) = stat.rsplit_once(") ")?;
            state.starts_with('T').then_some(())
        })
        .await;
    }

    /// Waits for its end.
    pub async fn wait_exit(&self, limit: Duration) -> ExitStatus {
        eventually("the daemon ending", limit, async || self.exited()).await
    }

    /// Asks it to end and waits until it did so in order.
    pub async fn stop(&self) {
        self.signal(Signal::Term);
        let status = self.wait_exit(LIMIT).await;
        assert_eq!(status.code(), Some(0), "a drain in order ends with 0");
    }

    /// `kill -9`.
    pub async fn kill(&self) {
        self.signal(Signal::Kill);
        self.wait_exit(LIMIT).await;
    }

    /// Bytes of memory that are its own and in use.
    pub fn memory(&self) -> u64 {
        self.of_system("VmRSS:")
    }

    /// The most that it ever had.
    pub fn most_memory(&self) -> u64 {
        self.of_system("VmHWM:")
    }

    fn of_system(&self, name: &str) -> u64 {
        let file = format!("/proc/{}/status", self.pid());
        let text = std::fs::read_to_string(file).expect("the daemon runs");
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: u64 = kib.and_then(|kib| kib.parse().ok()).expect("Linux says it");
        kib * 1024
    }

    async fn until_listening(&mut self) {
        self.address = eventually("the daemon listening", LIMIT, async || {
            let log = self.log();
            if let Some(status) = self.exited() {
                panic!("the daemon ended with {status} before it listened:\n{log}");
            }
            // As text, or as JSON.
            let (_, rest) = log
                .split_once("http=")
                .or_else(|| log.split_once("\"http\":\""))?;
            let ends = |c: char| c.is_whitespace() || c == '"';
            let address = rest.split(ends).next()?;
            rest.contains('\n').then(|| address.to_owned())
        })
        .await;
    }
}

/// The one place that knows how the program is called.
fn run(
    program: &Path,
    folder: &TempDir,
    log: &Path,
    migrates: bool,
    environment: &[(&str, &str)],
) -> Child {
    let log = File::create(log).unwrap();
    // The signal at the parent's death belongs to the thread that starts the process: the test's own.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .arg("run")
        .args(migrates.then_some("--migrate"))
        .arg("-c")
        .arg(folder.path().join("sluice.toml"))
        .current_dir(folder.path())
        .env("NO_COLOR", "1")
        .envs(environment.iter().copied())
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("setpriv is part of every Debian")
}

impl Drop for Daemon {
    #[expect(
        clippy::print_stderr,
        reason = "the place where the test harness shows what a test says"
    )]
    fn drop(&mut self) {
        let process = self.process.get_mut().expect("the test does not hold it");
        // It may have ended already.
        let _ = process.kill();
        let _ = process.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(SHOWN)..];
            eprintln!("the daemon's log ends:\n{}\n", shown.join("\n"));
        }
    }
}
