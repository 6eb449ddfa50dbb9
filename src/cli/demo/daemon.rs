//! The daemons of the demo: this very program, as processes of their own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::broker::Broker;
use super::free_port;
use crate::metrics::Samples;

const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// One process.
pub struct Daemon {
    name: String,
    port: u16,
    child: Child,
}

impl Daemon {
    pub fn start(folder: &Path, name: &str, broker: &Broker) -> anyhow::Result<Self> {
        let port = free_port()?;
        let config = folder.join(format!("{name}.toml"));
        fs::write(
            &config,
            configuration(folder, name, port, &broker.address()),
        )?;
        let log = fs::File::create(folder.join(format!("{name}.log")))?;
        let program = std::env::current_exe().context("this program does not know itself")?;
        let child = Command::new(program)
            .args(["run", "--migrate", "-c"])
            .arg(&config)
            .env_remove("SLUICE_CONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("the daemon does not start")?;
        Ok(Self {
            name: name.to_owned(),
            port,
            child,
        })
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Until it answers; it joins its group on its own time.
    pub async fn until_live(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.get("/health/live").await.is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("daemon {} ended while it started: {status}", self.name);
            }
            if began.elapsed() > START_LIMIT {
                bail!("daemon {} did not start within {START_LIMIT:?}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
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
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn get(&self, path: &str) -> anyhow::Result<String> {
        let asking = async {
            let mut stream = TcpStream::connect(self.address()).await?;
            let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = tokio::time::timeout(Duration::from_secs(2), asking).await??;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
            _ => bail!("no good answer from {path}"),
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

/// What one daemon counted, by its own metrics; kept when it is killed.
#[derive(Debug, Default)]
pub struct Counters {
    duplicates: BTreeMap<String, u64>,
    recovered: u64,
}

impl Counters {
    /// A daemon that does not answer keeps its last numbers.
    pub async fn look(&mut self, daemon: &Daemon) {
        let Ok(text) = daemon.get("/metrics").await else {
            return;
        };
        let samples = Samples::parse(&text);
        self.duplicates = samples
            .sum_by("sluice_duplicates_total", ["cause"])
            .into_iter()
            .map(|([cause], count)| (cause.clone(), whole(count)))
            .filter(|(_, count)| *count > 0)
            .collect();
        self.recovered = whole(samples.sum("sluice_recovered_total"));
    }

    pub fn recovered(&self) -> u64 {
        self.recovered
    }

    pub fn by_cause(all: &[&Self]) -> BTreeMap<String, u64> {
        let mut sum = BTreeMap::new();
        for (cause, count) in all.iter().flat_map(|counters| &counters.duplicates) {
            *sum.entry(cause.clone()).or_default() += count;
        }
        sum
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

fn configuration(folder: &Path, name: &str, port: u16, brokers: &str) -> String {
    let database = folder.join("demo.db");
    let payment_key = if deduplication_is_broken() {
        "@coordinates"
    } else {
        "$.paymentId"
    };
    format!(
        r#"# The demo's configuration: two routes, one inbox, an engine that is a table.
[node]
name = "{name}"

[inbox]
url = "sqlite:{database}"

[http]
listen = "127.0.0.1:{port}"

[sources.orders.kafka]
bootstrap_servers = "{brokers}"
topics = ["orders"]
group_id = "demo-orders"
session_timeout = "3s"

[sources.payments.kafka]
bootstrap_servers = "{brokers}"
topics = ["payments"]
group_id = "demo-payments"
session_timeout = "3s"

[engines.process.sql]
match = "SELECT 1 WHERE :kind = 'order' OR EXISTS (SELECT 1 FROM effects WHERE kind = 'order' AND id = :order_id)"
apply = "INSERT INTO effects (kind, id, amount) VALUES (:kind, :id, :amount)"

[routes.order-placed]
source = "orders"
engine = "process"
dedup_key = "$.orderId"

[routes.order-placed.apply]
business_key = "$.orderId"
variables = {{ kind = "order", id = "$.orderId", order_id = "$.orderId", amount = "$.amount" }}

[routes.payment-received]
source = "payments"
engine = "process"
dedup_key = "{payment_key}"

[routes.payment-received.apply]
business_key = "$.orderId"
variables = {{ kind = "payment", id = "$.paymentId", order_id = "$.orderId", amount = "$.amount" }}
"#,
        database = database.display()
    )
}

/// A test breaks deduplication on purpose, to see that the demo would show it.
fn deduplication_is_broken() -> bool {
    #[cfg(feature = "crash_points")]
    return std::env::var_os("SLUICE_BREAK").is_some_and(|what| what == "dedup");
    #[cfg(not(feature = "crash_points"))]
    false
}
