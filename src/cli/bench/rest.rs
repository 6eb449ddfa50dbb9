//! The engine's REST interface, as far as the bench needs it: deploy, start, correlate, remove.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::multipart::{Form, Part};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_mins(1);

/// One node of the engine, by the address of its REST interface (`…/engine-rest`).
#[derive(Debug, Clone)]
pub struct Rest {
    client: Client,
    url: String,
}

impl Rest {
    pub fn at(url: &str) -> anyhow::Result<Self> {
        Ok(Self {
            client: client()?,
            url: url.trim_end_matches('/').to_owned(),
        })
    }

    /// Deploys a model under this name.
    pub async fn deploy(&self, name: &str, model: String) -> anyhow::Result<()> {
        let file = Part::text(model).file_name(format!("{name}.bpmn"));
        let form = Form::new()
            .text("deployment-name", name.to_owned())
            .part("model", file);
        let request = self.post("deployment/create").multipart(form);
        answer(request, "deploying").await?;
        Ok(())
    }

    /// Removes a deployment with what is left of its instances and their history.
    pub async fn undeploy(&self, deployment: &str) -> anyhow::Result<()> {
        let path = format!("{}/deployment/{deployment}", self.url);
        let query = [
            ("cascade", "true"),
            ("skipCustomListeners", "true"),
            ("skipIoMappings", "true"),
        ];
        answer(
            self.client.delete(path).query(&query),
            "removing the deployment",
        )
        .await?;
        Ok(())
    }

    /// The deployments of this name.
    pub async fn deployments(&self, name: &str) -> anyhow::Result<Vec<String>> {
        let request = self.client.get(format!("{}/deployment", self.url));
        let found = answer(request.query(&[("name", name)]), "looking for deployments").await?;
        let found: Vec<Value> = found.json().await.context("the list of deployments")?;
        found.iter().map(id_of).collect()
    }

    /// Starts an instance; returns its id.
    pub async fn start(&self, key: &str, business_key: &str) -> anyhow::Result<String> {
        let request = self
            .post(&format!("process-definition/key/{key}/start"))
            .json(&json!({ "businessKey": business_key }));
        let started = answer(request, "starting an instance").await?.json().await;
        id_of(&started.context("the instance's answer")?)
    }

    /// `POST /message`, with the variables that the bench's route maps.
    pub async fn correlate(
        &self,
        message_name: &str,
        business_key: &str,
        amount: f64,
    ) -> anyhow::Result<()> {
        let request = self.post("message").json(&json!({
            "messageName": message_name,
            "businessKey": business_key,
            "processVariables": {
                "amount": { "value": amount, "type": "Double" },
                "paid": { "value": true, "type": "Boolean" },
            },
        }));
        answer(request, "correlating").await?;
        Ok(())
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("{}/{path}", self.url))
    }
}

/// A client for plain and encrypted HTTP.
pub fn client() -> anyhow::Result<Client> {
    // Of the libraries that could be linked rustls wants to be told which one; whoever comes first wins.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().timeout(LIMIT).build();
    client.context("the HTTP client")
}

/// A good answer, or what the engine said.
async fn answer(request: RequestBuilder, what: &str) -> anyhow::Result<Response> {
    let response = request.send().await.with_context(|| what.to_owned())?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let said = response.text().await.unwrap_or_default();
    bail!("{what}: the engine answered {status} {said}")
}

fn id_of(answer: &Value) -> anyhow::Result<String> {
    let id = answer["id"].as_str();
    Ok(id.context("the engine's answer has no id")?.to_owned())
}
