//! A daemon as users run it: this very program as a process of its own, on the bench's schema.
//!
//! Its standard input ends with the bench, however that ends, and so does the daemon.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};
use tempfile::TempDir;

use super::{Bench, Process, Subject, rest, way};
use crate::source::kafka::KafkaConfig;
use crate::source::rabbitmq::RabbitmqConfig;

const START_LIMIT: Duration = Duration::from_mins(1);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);
/// A tick of `/proc/PID/stat`, which Linux fixed for programs long ago.
const TICK: Duration = Duration::from_millis(10);

/// What the daemon reads.
pub struct Sources<'a> {
    pub rabbitmq: Option<&'a RabbitmqConfig>,
    pub kafka: Option<&'a KafkaConfig>,
    /// Queue, topic and group.
    pub name: &'a str,
}

impl<'a> Sources<'a> {
    /// Both brokers of the subject. A file of the daemon's own is written, into which what the
    /// configuration says about TLS and passwords of clients is not copied.
    pub fn of(subject: &'a Subject, name: &'a str) -> Self {
        let plain = |kafka: &&KafkaConfig| kafka.tls.is_none() && kafka.sasl.is_none();
        let bare = |rabbitmq: &&RabbitmqConfig| {
            rabbitmq.tls.ca_file.is_none() && rabbitmq.tls.crt_file.is_none()
        };
        Self {
            rabbitmq: subject.rabbitmq.as_ref().filter(bare),
            kafka: subject.kafka.as_ref().filter(plain),
            name,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.rabbitmq.is_none() && self.kafka.is_none()
    }

    fn text(&self, engine: &str) -> String {
        let mut text = String::new();
        let name = self.name;
        if self.rabbitmq.is_some() {
            let _ = write!(
                text,
                "[sources.rabbitmq.rabbitmq]\nuris = [\"${{BENCH_RABBITMQ}}\"]\nqueue = \"{name}\"\n{}",
                engine.replace("{source}", "rabbitmq")
            );
        }
        if self.kafka.is_some() {
            let _ = write!(
                text,
                "[sources.kafka.kafka]\nbootstrap_servers = \"${{BENCH_KAFKA}}\"\ntopics = [\"{name}\"]\n\
                 group_id = \"{name}\"\n{}",
                engine.replace("{source}", "kafka")
            );
        }
        text
    }
}

/// One process.
pub struct Daemon {
    child: Child,
    log: PathBuf,
    _folder: TempDir,
}

impl Daemon {
    /// Starts it on this database and waits until it is ready.
    pub async fn start(
        bench: &Bench,
        sources: &Sources<'_>,
        process: Option<&Process>,
        database: &SecretString,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("sluice-bench-").tempdir()?;
        let file = folder.path().join("sluice.toml");
        fs::write(&file, configuration(bench, sources, process))?;
        let log = folder.path().join("log");
        let program = std::env::current_exe().context("this program does not know itself")?;
        let uri = sources.rabbitmq.and_then(|rabbitmq| rabbitmq.uris.first());
        let servers = sources.kafka.map(|kafka| kafka.bootstrap_servers.as_str());
        let child = Command::new(program)
            .args(["run", "--until-stdin-ends", "-c"])
            .arg(&file)
            .env("BENCH_DATABASE", database.expose_secret())
            .env("BENCH_RABBITMQ", uri.map_or("", |uri| uri.expose_secret()))
            .env("BENCH_KAFKA", servers.unwrap_or_default())
            .env("NO_COLOR", "1")
            .env_remove("RUST_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()
            .context("a daemon does not start")?;
        let mut daemon = Self {
            child,
            log,
            _folder: folder,
        };
        daemon.until_ready().await?;
        Ok(daemon)
    }

    async fn until_ready(&mut self) -> anyhow::Result<()> {
        let (client, began) = (rest::client()?, Instant::now());
        loop {
            if let Some(address) = self.logged_address() {
                let ready = client.get(format!("http://{address}/health/ready"));
                let answer = ready.send().await;
                if answer.is_ok_and(|answer| answer.status().is_success()) {
                    return Ok(());
                }
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the daemon ended ({status}): {}", self.last_words());
            }
            if began.elapsed() > START_LIMIT {
                bail!("the daemon is not ready: {}", self.last_words());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// It takes any free port, and says which in its first line.
    fn logged_address(&self) -> Option<String> {
        let log = fs::read_to_string(&self.log).ok()?;
        let (_, rest) = log.split_once("http=")?;
        let line_is_whole = rest.contains('\n');
        let address = rest.split_whitespace().next()?;
        line_is_whole.then(|| address.to_owned())
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().last().unwrap_or_default().to_owned()
    }

    /// Resident memory, now and at its highest, in bytes.
    pub fn memory(&self) -> anyhow::Result<(u64, u64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .context("the memory of a process is read from /proc")?;
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        };
        let (now, peak) = (kib("VmRSS:"), kib("VmHWM:"));
        let both = now.zip(peak).context("/proc/PID/status tells no memory")?;
        Ok((both.0 * 1024, both.1 * 1024))
    }

    /// The time that all cores together spent on it so far.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))
            .context("the time of a process is read from /proc")?;
        // The second field is a name in parentheses and may hold anything; user and system time follow.
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat")?;
        let ticks: Option<u32> = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u32>().ok())
            .sum();
        Ok(TICK * ticks.context("/proc/PID/stat tells no time")?)
    }

    /// Lets it drain, so that no broker keeps it as a member; kills one that takes long.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status()?;
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            if began.elapsed() > STOP_LIMIT {
                self.child.kill()?;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }
}

/// The daemon's file, with default limits.
fn configuration(bench: &Bench, sources: &Sources<'_>, process: Option<&Process>) -> String {
    let route =
        "[routes.{source}]\nsource = \"{source}\"\nengine = \"bench\"\ndedup_key = \"$.id\"\n";
    let (engine, action) = match process {
        Some(process) => (
            process.configuration(),
            format!(
                "[routes.{{source}}.correlate]\nmessage_name = \"{}\"\nbusiness_key = \"$.orderId\"\n\
                 variables = {{ amount = \"$.amount\", paid = \"$.paid\" }}\n",
                process.paid()
            ),
        ),
        None => (
            "[engines.bench.sql]\napply = \"SELECT :dedup_key::text\"\n".to_owned(),
            "apply = {}\n".to_owned(),
        ),
    };
    debug_assert_eq!(way::NAME, "bench");
    format!(
        "[inbox]\nurl = \"${{BENCH_DATABASE}}\"\nschema = \"{}\"\n[http]\nlisten = \"127.0.0.1:0\"\n{engine}{}",
        bench.ground.config.schema,
        sources.text(&format!("{route}{action}"))
    )
}
