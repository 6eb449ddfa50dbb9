//! The process engine, as its own users see it: through REST.
//!
//! Values of variables go in and come out in the engine's form, `{"value": 5, "type": "Long"}`, because
//! their types are what many tests are about.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use super::{eventually, http, orphaned, tidy, unique};

/// One node, by the address of its REST interface (`…/engine-rest`).
#[derive(Clone)]
pub struct Engine {
    rest: String,
}

/// What a node answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// `null` when there was none.
    pub body: Value,
}

impl Answer {
    /// The body of a successful answer.
    fn expect(self, what: &str) -> Value {
        assert!(
            (200..300).contains(&self.status),
            "{what}: the engine answered {} {}",
            self.status,
            self.body
        );
        self.body
    }
}

impl Engine {
    pub fn at(rest: &str) -> Engine {
        Engine {
            rest: rest.to_owned(),
        }
    }

    /// The address of its REST interface.
    pub fn rest(&self) -> &str {
        &self.rest
    }

    // === deployments ===

    /// Deploys files of tests/rig/bpmn, named without their ending, in one deployment. Their `_suffix`
    /// becomes the deployment's own, see [`Deployment::name`].
    pub async fn deploy(&self, models: &[&str]) -> Deployment {
        self.deploy_for(models, None).await
    }

    /// The same for a tenant.
    pub async fn deploy_for(&self, models: &[&str], tenant: Option<&str>) -> Deployment {
        self.deploy_as(&unique(), models, tenant).await
    }

    /// The same under the suffix of an earlier deployment: a new version of its models, or the same
    /// models for another tenant.
    pub async fn deploy_as(
        &self,
        suffix: &str,
        models: &[&str],
        tenant: Option<&str>,
    ) -> Deployment {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rig/bpmn");
        let read = |model: &&str| {
            let file = folder.join(format!("{model}.bpmn"));
            match std::fs::read_to_string(&file) {
                Ok(text) => ((*model).to_owned(), text),
                Err(error) => panic!("{}: {error}", file.display()),
            }
        };
        self.deploy_texts(suffix, models.iter().map(read).collect(), tenant)
            .await
    }

    /// Deploys models that the test wrote itself, as pairs of name and BPMN text.
    pub async fn deploy_texts(
        &self,
        suffix: &str,
        models: Vec<(String, String)>,
        tenant: Option<&str>,
    ) -> Deployment {
        let mut form = Form::new().text("deployment-name", format!("rig {suffix}"));
        if let Some(tenant) = tenant {
            form = form.text("tenant-id", tenant.to_owned());
        }
        for (name, text) in models {
            let text = text.replace("_suffix", &format!("_{suffix}"));
            let file = format!("{name}.bpmn");
            form = form.part(name, Part::text(text).file_name(file));
        }
        let response = http()
            .post(format!("{}/deployment/create", self.rest))
            .multipart(form)
            .send()
            .await
            .expect("the engine answers");
        let body = answer(response)
            .await
            .expect("the engine answers in JSON")
            .expect("deploying");
        Deployment {
            engine: self.clone(),
            id: text(&body["id"]),
            suffix: suffix.to_owned(),
            kept: false,
        }
    }

    // === messages and instances ===

    /// `POST /message` with this body, whatever the engine answers. With `"resultEnabled": true` the
    /// body of the answer says which execution or instance took the message.
    pub async fn correlate(&self, message: Value) -> Answer {
        self.post("message", message).await
    }

    /// Starts an instance by the key of its definition; returns its id.
    pub async fn start(&self, key: &str, business_key: Option<&str>, variables: Value) -> String {
        let body = json!({ "businessKey": business_key, "variables": variables });
        let started = self
            .post(&format!("process-definition/key/{key}/start"), body)
            .await;
        text(&started.expect("starting an instance")["id"])
    }

    /// The same for the definition of a tenant.
    pub async fn start_for(
        &self,
        key: &str,
        tenant: &str,
        business_key: Option<&str>,
        variables: Value,
    ) -> String {
        let body = json!({ "businessKey": business_key, "variables": variables });
        let path = format!("process-definition/key/{key}/tenant-id/{tenant}/start");
        text(&self.post(&path, body).await.expect("starting an instance")["id"])
    }

    /// The running instances with a business key.
    pub async fn instances(&self, business_key: &str) -> Vec<Value> {
        self.list("process-instance", &[("businessKey", business_key)])
            .await
    }

    pub async fn delete_instance(&self, id: &str) {
        self.call(Method::DELETE, &format!("process-instance/{id}"), None)
            .await
            .expect("deleting an instance");
    }

    pub async fn suspend_instance(&self, id: &str, suspended: bool) {
        let path = format!("process-instance/{id}/suspended");
        self.put(&path, json!({ "suspended": suspended }))
            .await
            .expect("suspending an instance");
    }

    /// Suspends or activates the definition alone, or its instances with it.
    pub async fn suspend_definition(&self, key: &str, suspended: bool, with_instances: bool) {
        let body = json!({
            "processDefinitionKey": key,
            "suspended": suspended,
            "includeProcessInstances": with_instances,
        });
        self.put("process-definition/suspended", body)
            .await
            .expect("suspending a definition");
    }

    /// Sets variables of a running instance.
    pub async fn set_variables(&self, instance: &str, variables: Value) {
        let path = format!("process-instance/{instance}/variables");
        self.post(&path, json!({ "modifications": variables }))
            .await
            .expect("setting variables");
    }

    /// The variables of a running instance, by name.
    pub async fn variables(&self, instance: &str) -> BTreeMap<String, Value> {
        let path = format!("process-instance/{instance}/variables?deserializeValues=false");
        let body = self.get(&path).await.expect("reading variables");
        serde_json::from_value(body).expect("variables come as an object")
    }

    /// Open user tasks of an instance, as pairs of task id and the id in the model.
    pub async fn tasks(&self, instance: &str) -> Vec<(String, String)> {
        let tasks = self.list("task", &[("processInstanceId", instance)]).await;
        tasks
            .iter()
            .map(|task| (text(&task["id"]), text(&task["taskDefinitionKey"])))
            .collect()
    }

    /// Completes the one open user task that has this id in the model.
    pub async fn complete(&self, instance: &str, activity: &str) {
        let tasks = self.tasks(instance).await;
        let Some((id, _)) = tasks.iter().find(|(_, name)| name == activity) else {
            panic!("no user task {activity} is open, only {tasks:?}");
        };
        self.post(&format!("task/{id}/complete"), json!({}))
            .await
            .expect("completing a task");
    }

    /// Message subscriptions, of all or narrowed by `processInstanceId`, `eventName`, `activityId`,
    /// `tenantIdIn`.
    pub async fn subscriptions(&self, query: &[(&str, &str)]) -> Vec<Value> {
        let query: Vec<_> = query
            .iter()
            .copied()
            .chain([("eventType", "message")])
            .collect();
        self.list("event-subscription", &query).await
    }

    // === jobs ===

    /// Jobs, of all or narrowed by `processInstanceId`, `processDefinitionKey`, `noRetriesLeft`, ….
    pub async fn jobs(&self, query: &[(&str, &str)]) -> Vec<Value> {
        self.list("job", query).await
    }

    pub async fn set_retries(&self, job: &str, retries: u32) {
        self.put(&format!("job/{job}/retries"), json!({ "retries": retries }))
            .await
            .expect("setting retries");
    }

    pub async fn suspend_job(&self, job: &str, suspended: bool) {
        self.put(
            &format!("job/{job}/suspended"),
            json!({ "suspended": suspended }),
        )
        .await
        .expect("suspending a job");
    }

    /// Runs a job now, in this node, whatever the answer.
    pub async fn execute(&self, job: &str) -> Answer {
        self.post(&format!("job/{job}/execute"), json!({})).await
    }

    pub async fn incidents(&self, query: &[(&str, &str)]) -> Vec<Value> {
        self.list("incident", query).await
    }

    // === history ===

    /// An instance that runs or ran; its `state` is `ACTIVE`, `COMPLETED`, `EXTERNALLY_TERMINATED`, ….
    pub async fn history_instance(&self, id: &str) -> Option<Value> {
        self.list("history/process-instance", &[("processInstanceId", id)])
            .await
            .pop()
    }

    /// Instances that run or ran, narrowed by `processInstanceBusinessKey`, `processDefinitionKey`, ….
    pub async fn history_instances(&self, query: &[(&str, &str)]) -> Vec<Value> {
        self.list("history/process-instance", query).await
    }

    /// The last values of all variables that an instance ever had, by name.
    pub async fn history_variables(&self, instance: &str) -> BTreeMap<String, Value> {
        let query = [
            ("processInstanceId", instance),
            ("deserializeValues", "false"),
        ];
        let variables = self.list("history/variable-instance", &query).await;
        variables
            .into_iter()
            .map(|variable| (text(&variable["name"]), variable))
            .collect()
    }

    /// The activities that an instance went through, in order, each with whether it has ended.
    pub async fn history_activities(&self, instance: &str) -> Vec<(String, bool)> {
        let query = [
            ("processInstanceId", instance),
            ("sortBy", "occurrence"),
            ("sortOrder", "asc"),
        ];
        let activities = self.list("history/activity-instance", &query).await;
        activities
            .iter()
            .map(|activity| {
                (
                    text(&activity["activityId"]),
                    !activity["endTime"].is_null(),
                )
            })
            .collect()
    }

    // === waiting ===

    /// Waits until an instance has completed by itself.
    pub async fn wait_until_completed(&self, instance: &str, limit: Duration) {
        eventually(
            &format!("instance {instance} completing"),
            limit,
            async || {
                let state = self.history_instance(instance).await?;
                (state["state"] == "COMPLETED").then_some(())
            },
        )
        .await;
    }

    /// Waits until an instance has arrived at a user task.
    pub async fn wait_for_task(&self, instance: &str, activity: &str, limit: Duration) {
        eventually(
            &format!("instance {instance} arriving at {activity}"),
            limit,
            async || {
                self.tasks(instance)
                    .await
                    .iter()
                    .any(|(_, name)| name == activity)
                    .then_some(())
            },
        )
        .await;
    }

    /// Waits until an instance waits for a message.
    pub async fn wait_for_subscription(&self, instance: &str, message: &str, limit: Duration) {
        let query = [("processInstanceId", instance), ("eventName", message)];
        eventually(
            &format!("instance {instance} waiting for {message}"),
            limit,
            async || (!self.subscriptions(&query).await.is_empty()).then_some(()),
        )
        .await;
    }

    // === anything else ===

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.call(Method::PUT, path, Some(body)).await
    }

    /// A request of any kind; `path` begins behind `/engine-rest/`.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.try_call(method, path, body)
            .await
            .expect("the engine answers")
    }

    /// The same on a node that may be down.
    pub async fn try_call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Answer> {
        let mut request = http().request(method, format!("{}/{path}", self.rest));
        if let Some(body) = body {
            request = request.json(&body);
        }
        answer(request.send().await?).await
    }

    async fn list(&self, path: &str, query: &[(&str, &str)]) -> Vec<Value> {
        let response = http()
            .get(format!("{}/{path}", self.rest))
            .query(query)
            .send()
            .await
            .expect("the engine answers");
        let body = answer(response)
            .await
            .expect("the engine answers in JSON")
            .expect(path);
        match body {
            Value::Array(rows) => rows,
            other => panic!("{path} answered {other}, which is no list"),
        }
    }

    pub(super) async fn sweep(&self) {
        let Ok(answer) = self
            .try_call(Method::GET, "deployment?nameLike=rig%20%25", None)
            .await
        else {
            return;
        };
        for deployment in answer.body.as_array().into_iter().flatten() {
            let suffix = deployment["name"]
                .as_str()
                .and_then(|name| name.strip_prefix("rig "));
            if suffix.is_some_and(orphaned) {
                let _ = delete_deployment(self, &text(&deployment["id"])).await;
            }
        }
    }
}

/// Process models of one test's own. Deleted with this value, with all their instances and history.
pub struct Deployment {
    engine: Engine,
    id: String,
    suffix: String,
    kept: bool,
}

impl Deployment {
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the models of this deployment call a thing: of a process `loop` or a message `Paid`, which
    /// the files call `loop_suffix` and `Paid_suffix`.
    pub fn name(&self, short: &str) -> String {
        format!("{short}_{}", self.suffix)
    }

    /// What [`Engine::deploy_as`] takes for another deployment of the same names.
    pub fn suffix(&self) -> &str {
        &self.suffix
    }

    /// Deletes the deployment now, with all its instances and their history.
    pub async fn delete(mut self) {
        self.kept = true;
        delete_deployment(&self.engine, &self.id)
            .await
            .expect("the deployment can be deleted");
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (engine, id) = (self.engine.clone(), self.id.clone());
        tidy(&format!("deployment {}", self.suffix), async move {
            delete_deployment(&engine, &id).await
        });
    }
}

async fn delete_deployment(engine: &Engine, id: &str) -> Result<()> {
    let path = format!("deployment/{id}?cascade=true&skipCustomListeners=true&skipIoMappings=true");
    // Jobs of these models may be running; the engine then refuses one of the two.
    for attempt in 1.. {
        let answer = engine.try_call(Method::DELETE, &path, None).await?;
        if matches!(answer.status, 200..300 | 404) {
            break;
        }
        ensure!(
            attempt < 5,
            "the engine answers {} {}",
            answer.status,
            answer.body
        );
    }
    Ok(())
}

async fn answer(response: reqwest::Response) -> Result<Answer> {
    let status = response.status().as_u16();
    let bytes = response.bytes().await?;
    let body = if bytes.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&bytes)?
    };
    Ok(Answer { status, body })
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => panic!("expected a string of the engine, got {other}"),
    }
}
