//! A Prometheus of a test's own.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::process::{Child, Command};

/// Ends with the test.
pub struct Prometheus {
    _server: Child,
    _data: tempfile::TempDir,
    url: String,
}

impl Prometheus {
    /// Scrapes this address four times a second under the job `sluice`, and evaluates these rules.
    pub async fn scraping(target: &str, rules: &Path) -> Self {
        let data = tempfile::tempdir().unwrap();
        let target = target.trim_start_matches("http://");
        let config = format!(
            "global: {{ scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 1s }}\n\
             rule_files: [\"{rules}\"]\n\
             scrape_configs: [{{ job_name: sluice, static_configs: [{{ targets: [{target:?}] }}] }}]\n",
            rules = rules.display(),
        );
        let file = data.path().join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let server = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                data.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("prometheus (Debian package) starts");
        let prometheus = Self {
            _server: server,
            _data: data,
            url: format!("http://{address}"),
        };
        let limit = Instant::now() + Duration::from_mins(1);
        let ready = format!("{}/-/ready", prometheus.url);
        while !reqwest::get(&ready)
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            assert!(Instant::now() < limit, "prometheus is not ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        prometheus
    }

    /// Whether a query has at least one series now.
    pub async fn answers(&self, query: &str) -> bool {
        let request = reqwest::Client::new().get(format!("{}/api/v1/query", self.url));
        let request = request.query(&[("query", query)]);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        !answer["data"]["result"].as_array().unwrap().is_empty()
    }

    pub async fn every_rule_is_healthy(&self) {
        let url = format!("{}/api/v1/rules", self.url);
        let limit = Instant::now() + Duration::from_secs(30);
        loop {
            let answer: Value = reqwest::get(&url).await.unwrap().json().await.unwrap();
            let groups = answer["data"]["groups"].as_array().unwrap().iter();
            let rules: Vec<_> = groups
                .flat_map(|group| group["rules"].as_array().unwrap())
                .collect();
            assert!(!rules.is_empty());
            if rules.iter().all(|rule| rule["health"] == "ok") {
                return;
            }
            assert!(Instant::now() < limit, "{rules:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
