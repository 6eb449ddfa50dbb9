//! A small client of the `WebDriver` protocol, over chromedriver.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// How long a page may take for what it shows within a second or two on a quiet machine.
const LIMIT: Duration = Duration::from_secs(30);

/// One browser with one window; both end with the test.
pub struct Browser {
    driver: Child,
    _profile: tempfile::TempDir,
    client: reqwest::Client,
    session: String,
}

impl Browser {
    pub async fn open(width: u32, height: u32) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (driver, port) = driver().await;
        let profile = tempfile::tempdir().unwrap();
        let client = reqwest::Client::new();
        let arguments = [
            "--headless".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-quic".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            format!("--window-size={width},{height}"),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let answer = client
            .post(format!("http://127.0.0.1:{port}/session"))
            .json(&wanted);
        let answer: Value = answer.send().await.unwrap().json().await.unwrap();
        let id = answer["value"]["sessionId"].as_str();
        let id = id.unwrap_or_else(|| panic!("no session: {answer}"));
        let browser = Self {
            driver,
            _profile: profile,
            client,
            session: format!("http://127.0.0.1:{port}/session/{id}"),
        };
        browser.size(width, height).await;
        browser
    }

    async fn command(&self, path: &str, body: Value) -> Value {
        let request = self
            .client
            .post(format!("{}{path}", self.session))
            .json(&body);
        let mut answer: Value = request.send().await.unwrap().json().await.unwrap();
        let value = answer["value"].take();
        assert!(value.get("error").is_none(), "{path}: {value:#}");
        value
    }

    async fn devtools(&self, command: &str, params: Value) {
        let body = json!({ "cmd": command, "params": params });
        self.command("/goog/cdp/execute", body).await;
    }

    /// The size of the page itself, whatever the window's frame needs.
    pub async fn size(&self, width: u32, height: u32) {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)
            .await;
    }

    pub async fn prefer(&self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.devtools(
            "Emulation.setEmulatedMedia",
            json!({ "features": [feature] }),
        )
        .await;
    }

    pub async fn visit(&self, url: &str) {
        self.command("/url", json!({ "url": url })).await;
    }

    pub async fn eval(&self, expression: &str) -> Value {
        let script = format!("return ({expression});");
        self.command("/execute/sync", json!({ "script": script, "args": [] }))
            .await
    }

    /// The text that a selector's first element shows; empty when there is none.
    pub async fn text(&self, selector: &str) -> String {
        let expression = format!("document.querySelector({selector:?})?.innerText ?? ''");
        self.eval(&expression).await.as_str().unwrap().to_owned()
    }

    pub async fn until(&self, what: &str, expression: &str) {
        let limit = Instant::now() + LIMIT;
        while self.eval(expression).await != json!(true) {
            assert!(Instant::now() < limit, "{what}: {expression}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What the page said on its console since the last time, warnings and errors only.
    pub async fn complaints(&self) -> Vec<String> {
        let entries = self.command("/se/log", json!({ "type": "browser" })).await;
        let entries = entries.as_array().unwrap().iter();
        let loud = entries.filter(|entry| entry["level"] != "INFO" && entry["level"] != "DEBUG");
        loud.map(|entry| entry["message"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Saves the whole page, as long as it is, and returns the file.
    pub async fn picture(&self, name: &str, width: u32) -> PathBuf {
        let height = self.eval("document.documentElement.scrollHeight").await;
        self.size(width, u32::try_from(height.as_u64().unwrap()).unwrap())
            .await;
        let url = format!("{}/screenshot", self.session);
        let answer: Value = self
            .client
            .get(url)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let png = base64::engine::general_purpose::STANDARD
            .decode(answer["value"].as_str().unwrap())
            .unwrap();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../pictures");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join(format!("{name}.png"));
        std::fs::write(&file, png).unwrap();
        file
    }
}

/// A chromedriver and the port that it listens on. With `--port=0` it takes a free one of IPv6 and
/// wants the same of IPv4, where it may not be free: it ends then, and the next takes another.
async fn driver() -> (Child, String) {
    let mut said = Vec::new();
    for _ in 0..5 {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("chromedriver (package chromium-driver) starts");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some((_, port)) = line.split_once("successfully on port ") {
                return (driver, port.trim_end_matches('.').to_owned());
            }
            said.push(line);
        }
        driver.wait().await.unwrap();
    }
    panic!("chromedriver says no port: {said:#?}");
}

impl Drop for Browser {
    /// The driver and its browser are one group of processes; the profile is removed after both.
    fn drop(&mut self) {
        let Some(group) = self.driver.id().map(|pid| format!("-{pid}")) else {
            return;
        };
        let signal = |signal| {
            let mut kill = std::process::Command::new("kill");
            let kill = kill.args([signal, "--", &group]).stderr(Stdio::null());
            kill.status().is_ok_and(|status| status.success())
        };
        signal("-TERM");
        let limit = Instant::now() + Duration::from_secs(5);
        while signal("-0") && Instant::now() < limit {
            // The driver itself stays a zombie until somebody asks for it.
            let _ = self.driver.try_wait();
            std::thread::sleep(Duration::from_millis(20));
        }
        signal("-KILL");
    }
}
