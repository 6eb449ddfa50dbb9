//! A random state of the engine: instances that wait, some of them suspended, with variables.

use futures_util::future::join_all;
use serde_json::{Value as Json, json};
use sluice::message::Value;

use super::random::Random;
use crate::rig::{Deployment, Engine};

pub const TENANTS: [Option<&str>; 3] = [None, Some("a"), Some("b")];
/// 2026-01-02T03:04:05.678Z
pub const DATE: i64 = 1_767_323_045_678;

/// An instance that waits for a message.
pub struct Instance {
    pub id: String,
    pub waits_for: &'static str,
    pub business_key: Option<String>,
    pub tenant: Option<&'static str>,
    pub suspended: bool,
    pub definition_suspended: bool,
    pub is_child: bool,
    /// The first is its own alone.
    pub variables: Vec<(String, Value)>,
    /// What deletes it.
    root: String,
}

/// The instances of one round.
pub struct World<'a> {
    engine: &'a Engine,
    names: &'a Deployment,
    pub instances: Vec<Instance>,
    /// Process and tenant of definitions that are suspended in this round.
    pub suspended: Vec<(&'static str, Option<&'static str>)>,
    pub business_keys: Vec<String>,
}

/// Values that look alike and differ in type; few, so that instances share them.
pub fn values() -> Vec<Value> {
    vec![
        Value::String("5".to_owned()),
        Value::String(String::new()),
        Value::Integer(5),
        Value::Long(5),
        Value::Short(5),
        Value::Double(5.0),
        Value::Integer(1),
        Value::Boolean(true),
        Value::Date(DATE),
        Value::Long(DATE),
        Value::Null,
    ]
}

/// As the engine's REST interface writes it.
pub fn rest(value: &Value) -> Json {
    match value {
        Value::Null => json!({ "value": null, "type": "Null" }),
        Value::Boolean(value) => json!({ "value": value, "type": "Boolean" }),
        Value::Short(value) => json!({ "value": value, "type": "Short" }),
        Value::Integer(value) => json!({ "value": value, "type": "Integer" }),
        Value::Long(value) => json!({ "value": value, "type": "Long" }),
        Value::Double(value) => json!({ "value": value, "type": "Double" }),
        Value::String(value) => json!({ "value": value, "type": "String" }),
        Value::Date(ms) => {
            let date = chrono::DateTime::from_timestamp_millis(*ms).unwrap();
            let text = date.format("%Y-%m-%dT%H:%M:%S%.3f+0000").to_string();
            json!({ "value": text, "type": "Date" })
        }
        Value::Bytes(_) | Value::Json(_) => unreachable!("the engine does not compare these"),
    }
}

/// What an instance is to be.
struct Wanted {
    process: &'static str,
    tenant: Option<&'static str>,
    business_key: Option<String>,
    variables: Vec<(String, Value)>,
    suspended: bool,
}

impl<'a> World<'a> {
    /// Starts instances and suspends some definitions; `round` makes its values its own.
    pub async fn new(
        engine: &'a Engine,
        names: &'a Deployment,
        round: usize,
        random: &mut Random,
    ) -> World<'a> {
        let mut world = World {
            engine,
            names,
            instances: Vec::new(),
            suspended: Vec::new(),
            business_keys: (0..6).map(|n| format!("key-{round}-{n}")).collect(),
        };
        let wanted: Vec<Wanted> = (0..36).map(|n| world.want(round, n, random)).collect();
        for part in wanted.chunks(6) {
            let started = join_all(part.iter().map(|wanted| world.start(wanted))).await;
            world.instances.extend(started);
        }
        // One definition of each kind of each tenant or of none, so that each is suspended now and then.
        for process in ["paid", "shipped", "order", "payment"] {
            let tenant = random.one_of(&TENANTS);
            world.suspend(process, tenant, true).await;
            world.suspended.push((process, tenant));
        }
        for instance in &mut world.instances {
            instance.definition_suspended = !instance.is_child
                && world.suspended.iter().any(|(process, tenant)| {
                    *process == instance.waits_for.to_lowercase() && *tenant == instance.tenant
                });
        }
        world
    }

    fn want(&self, round: usize, number: usize, random: &mut Random) -> Wanted {
        let mut variables = vec![("id".to_owned(), Value::String(format!("{round}-{number}")))];
        for name in ["v", "w"] {
            if random.percent(60) {
                variables.push((name.to_owned(), random.one_of(&values())));
            }
        }
        Wanted {
            process: random.one_of(&["paid", "shipped", "parent"]),
            tenant: random.one_of(&TENANTS),
            business_key: random
                .percent(75)
                .then(|| random.one_of(&self.business_keys)),
            variables,
            suspended: random.percent(25),
        }
    }

    async fn start(&self, wanted: &Wanted) -> Instance {
        let engine = self.engine;
        let process = self.names.name(wanted.process);
        let key = wanted.business_key.as_deref();
        let variables: Json = wanted
            .variables
            .iter()
            .map(|(name, value)| (name.clone(), rest(value)))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let root = match wanted.tenant {
            Some(tenant) => engine.start_for(&process, tenant, key, variables).await,
            None => engine.start(&process, key, variables).await,
        };
        let is_child = wanted.process == "parent";
        let id = if is_child {
            let path = format!("process-instance?superProcessInstance={root}");
            let children = engine.get(&path).await.body;
            children[0]["id"].as_str().unwrap().to_owned()
        } else {
            root.clone()
        };
        if wanted.process == "shipped" {
            self.add_local_variables(&id).await;
        }
        if wanted.suspended {
            engine.suspend_instance(&id, true).await;
        }
        Instance {
            id,
            waits_for: if wanted.process == "shipped" {
                "Shipped"
            } else {
                "Paid"
            },
            business_key: wanted.business_key.clone(),
            tenant: wanted.tenant,
            suspended: wanted.suspended,
            definition_suspended: false,
            is_child,
            variables: wanted.variables.clone(),
            root,
        }
    }

    /// A variable of another execution of the instance counts, a variable of a task does not.
    async fn add_local_variables(&self, instance: &str) {
        let query = [("processInstanceId", instance)];
        let subscriptions = self.engine.subscriptions(&query).await;
        let execution = subscriptions[0]["executionId"].as_str().unwrap();
        let (task, _) = self.engine.tasks(instance).await.remove(0);
        for (path, name) in [
            (
                format!("execution/{execution}/localVariables/local"),
                "local",
            ),
            (format!("task/{task}/localVariables/of-task"), "of-task"),
        ] {
            let answer = self.engine.put(&path, rest(&Value::Integer(5))).await;
            assert_eq!(answer.status, 204, "{name}: {}", answer.body);
        }
    }

    async fn suspend(&self, process: &str, tenant: Option<&str>, suspended: bool) {
        let process = self.names.name(process);
        let tenant = tenant.map_or_else(String::new, |tenant| format!("/tenant-id/{tenant}"));
        let path = format!("process-definition/key/{process}{tenant}/suspended");
        let body = json!({ "suspended": suspended, "includeProcessInstances": false });
        let answer = self.engine.put(&path, body).await;
        assert_eq!(answer.status, 204, "{}", answer.body);
    }

    /// Ends the round.
    pub async fn clear(self) {
        for (process, tenant) in &self.suspended {
            self.suspend(process, *tenant, false).await;
        }
        for part in self.instances.chunks(6) {
            join_all(part.iter().map(|i| self.engine.delete_instance(&i.root))).await;
        }
    }
}
