//! The daemons of the demo: this very program, as processes of their own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::broker::Broker;
use crate::metrics::Samples;

const START_LIMIT: Duration = Duration::from_mins(1);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
/// The configuration, in the folder that is every daemon's own.
const FILE: &str = "sluice.toml";

/// Writes the configuration that all daemons of the demo share.
pub fn configure(folder: &Path, broken: bool) -> anyhow::Result<()> {
    let mut text = include_str!("shop.toml").to_owned();
    if broken {
        // Each record is its own message then, and a resent payment is another payment.
        text = text.replace("\"$.paymentId\"\n\n", "\"@coordinates\"\n\n");
    }
    fs::write(folder.join(FILE), text).context("the configuration cannot be written")
}

/// One process.
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    address: String,
}

impl Daemon {
    /// Starts it and waits until it listens; it joins its group on its own time.
    pub async fn start(folder: &Path, name: &str, broker: &Broker) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let program = std::env::current_exe().context("this program does not know itself")?;
        let child = Command::new(program)
            // Its standard input ends with this process, however that ends.
            .args(["run", "--until-stdin-ends", "-c", FILE])
            .current_dir(folder)
            .env("DEMO_NODE", name)
            .env("DEMO_PORT", "0")
            .env("DEMO_KAFKA", broker.address())
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()
            .context("a daemon does not start")?;
        let mut daemon = Self {
            name: name.to_owned(),
            child,
            log,
            address: String::new(),
        };
        daemon.address = daemon.until(Self::logged_address, "listen").await?;
        Ok(daemon)
    }

    /// Where its pages are.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Until the group has given it partitions to read.
    pub async fn until_reading(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            if let Ok(samples) = self.samples().await {
                let lags = samples.sum_by("sluice_kafka_lag", ["topic", "partition"]);
                if !lags.is_empty() {
                    return Ok(());
                }
            }
            self.must_run("read", began)?;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and the wait for a drain that ends well.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status()?;
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!("daemon {} did not drain well: {status}", self.name);
            }
            if began.elapsed() > STOP_LIMIT {
                self.kill()?;
                bail!("daemon {} did not drain within {STOP_LIMIT:?}", self.name);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn until<T>(
        &mut self,
        look: impl Fn(&Self) -> Option<T>,
        what: &str,
    ) -> anyhow::Result<T> {
        let began = Instant::now();
        loop {
            if let Some(found) = look(self) {
                return Ok(found);
            }
            self.must_run(what, began)?;
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn must_run(&mut self, what: &str, since: Instant) -> anyhow::Result<()> {
        let name = &self.name;
        if let Some(status) = self.child.try_wait()? {
            bail!("daemon {name} ended ({status}) and did not {what}");
        }
        if since.elapsed() > START_LIMIT {
            bail!("daemon {name} did not {what} within {START_LIMIT:?}");
        }
        Ok(())
    }

    /// It takes any free port, and says which in its first line.
    fn logged_address(&self) -> Option<String> {
        let log = fs::read_to_string(&self.log).ok()?;
        let (_, rest) = log.split_once("http=")?;
        let line_is_whole = rest.contains('\n');
        let address = rest.split_whitespace().next()?;
        line_is_whole.then(|| address.to_owned())
    }

    async fn samples(&self) -> anyhow::Result<Samples> {
        let asking = async {
            let mut stream = TcpStream::connect(&self.address).await?;
            // HTTP/1.0: the answer is whole when the connection ends.
            stream
                .write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
                .await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = tokio::time::timeout(Duration::from_secs(2), asking).await??;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.contains(" 200 ") => Ok(Samples::parse(body)),
            _ => bail!("daemon {} does not tell its metrics", self.name),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) && self.kill().is_err() {
            tracing::debug!(daemon = self.name, "it is gone already");
        }
    }
}

/// Duplicates by cause, as one daemon counted them; kept when it is killed.
#[derive(Debug, Default)]
pub struct Causes(BTreeMap<String, u64>);

impl Causes {
    /// A daemon that does not answer keeps its last numbers.
    pub async fn look(&mut self, daemon: &Daemon) {
        if let Ok(samples) = daemon.samples().await {
            self.0 = samples
                .sum_by("sluice_duplicates_total", ["cause"])
                .into_iter()
                .map(|([cause], count)| (cause, whole(count)))
                .filter(|(_, count)| *count > 0)
                .collect();
        }
    }

    pub fn add(mut self, other: &Self) -> Self {
        for (cause, count) in &other.0 {
            *self.0.entry(cause.clone()).or_default() += count;
        }
        self
    }

    pub fn into_inner(self) -> BTreeMap<String, u64> {
        self.0
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a counter is a whole positive number"
)]
fn whole(counter: f64) -> u64 {
    counter as u64
}
