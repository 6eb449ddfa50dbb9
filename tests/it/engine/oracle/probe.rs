//! Random messages, each aimed at something that decides its fate.

use serde_json::{Value as Json, json};
use sluice::message::{Action, Correlation, DedupKey, Message, Tenant, Value, Variable};

use super::random::Random;
use super::world::{DATE, Instance, TENANTS, World, rest, values};
use crate::rig::Deployment;

/// What a message tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    Anything,
    OneInstance,
    SharedKey,
    SharedValue,
    Nobody,
    Start,
    SuspendedInstance,
    SuspendedDefinition,
    OfSuspendedDefinition,
    ItsTenant,
    AnotherTenant,
    NoTenant,
    OtherType,
    Child,
    LocalVariable,
}

impl Aim {
    pub const ALL: [Self; 15] = [
        Self::Anything,
        Self::OneInstance,
        Self::SharedKey,
        Self::SharedValue,
        Self::Nobody,
        Self::Start,
        Self::SuspendedInstance,
        Self::SuspendedDefinition,
        Self::OfSuspendedDefinition,
        Self::ItsTenant,
        Self::AnotherTenant,
        Self::NoTenant,
        Self::OtherType,
        Self::Child,
        Self::LocalVariable,
    ];
}

/// A message for both, us and the engine.
#[derive(Debug, Clone)]
pub struct Probe {
    pub name: String,
    pub business_key: Option<String>,
    pub keys: Vec<(String, Value)>,
    pub instance: Option<String>,
    pub tenant: Tenant,
}

impl Probe {
    #[expect(clippy::too_many_lines, reason = "one arm for each class of message")]
    pub fn aimed(aim: Aim, world: &World<'_>, names: &Deployment, random: &mut Random) -> Probe {
        let mut probe = Probe {
            name: names.name(random.one_of(&["Paid", "Shipped"])),
            business_key: None,
            keys: Vec::new(),
            instance: None,
            tenant: Tenant::Any,
        };
        let active = |i: &Instance| !i.suspended;
        match aim {
            Aim::Anything => probe.any(world, names, random),
            Aim::OneInstance => probe.at(pick(world, random, active), names, random),
            Aim::SharedKey => {
                probe.business_key = Some(random.one_of(&world.business_keys));
            }
            Aim::SharedValue => {
                let name = random.one_of(&["v", "w"]).to_owned();
                probe.keys = vec![(name, random.one_of(&values()))];
            }
            Aim::Nobody => {
                probe.name = names.name(random.one_of(&["Shipped", "Unheard"]));
                probe.keys = vec![("id".to_owned(), Value::String("nobody".to_owned()))];
            }
            Aim::Start => {
                probe.name = names.name(random.one_of(&["OrderPlaced", "OrderPlaced", "Paid"]));
                probe.business_key = Some("a key that nobody has".to_owned());
                probe.tenant = tenant(random.one_of(&TENANTS));
            }
            Aim::SuspendedInstance => {
                probe.at(pick(world, random, |i| i.suspended), names, random);
            }
            Aim::SuspendedDefinition => {
                let starts = [("order", "OrderPlaced"), ("payment", "Paid")];
                let (process, message) = random.one_of(&starts);
                let of = world.suspended.iter().find(|(p, _)| *p == process);
                probe.name = names.name(message);
                probe.business_key = Some("a key that nobody has".to_owned());
                if random.percent(80) {
                    probe.tenant = tenant(of.expect("one is suspended").1);
                }
            }
            Aim::OfSuspendedDefinition => {
                let of = |i: &Instance| i.definition_suspended;
                probe.at(pick(world, random, of), names, random);
            }
            Aim::ItsTenant | Aim::AnotherTenant | Aim::NoTenant => {
                let instance = pick(world, random, active);
                probe.at(instance, names, random);
                probe.instance = None;
                if probe.keys.is_empty() {
                    probe.keys = instance.variables[..1].to_vec();
                }
                probe.tenant = match aim {
                    Aim::ItsTenant => tenant(instance.tenant),
                    Aim::AnotherTenant => tenant(random.one_of(&TENANTS)),
                    _ => Tenant::Without,
                };
            }
            Aim::OtherType => {
                let typed = |i: &Instance| {
                    active(i) && i.variables.iter().any(|(_, v)| !others(v).is_empty())
                };
                let instance = pick(world, random, typed);
                probe.at(instance, names, random);
                let (name, value) = instance
                    .variables
                    .iter()
                    .find(|(_, value)| !others(value).is_empty())
                    .expect("picked for it");
                probe.keys = vec![
                    instance.variables[0].clone(),
                    (name.clone(), random.one_of(&others(value))),
                ];
            }
            Aim::Child => {
                let child = |i: &Instance| active(i) && i.is_child;
                probe.at(pick(world, random, child), names, random);
            }
            Aim::LocalVariable => {
                let shipped = |i: &Instance| active(i) && i.waits_for == "Shipped";
                probe.at(pick(world, random, shipped), names, random);
                let name = random.one_of(&["local", "of-task"]).to_owned();
                probe.keys.push((name, Value::Integer(5)));
            }
        }
        probe
    }

    fn any(&mut self, world: &World<'_>, names: &Deployment, random: &mut Random) {
        self.name = names.name(random.one_of(&["Paid", "Shipped", "OrderPlaced", "Unheard"]));
        if random.percent(50) {
            self.business_key = Some(random.one_of(&world.business_keys));
        }
        for name in ["v", "w"] {
            if random.percent(30) {
                let value = random.one_of(&values());
                self.keys.push((name.to_owned(), value));
            }
        }
        if random.percent(40) {
            self.tenant = tenant(random.one_of(&TENANTS));
        }
    }

    /// Names one instance by what is its own, and adds what it shares with others.
    fn at(&mut self, instance: &Instance, names: &Deployment, random: &mut Random) {
        self.name = names.name(instance.waits_for);
        if random.percent(25) {
            self.instance = Some(instance.id.clone());
        } else {
            self.keys.push(instance.variables[0].clone());
        }
        if random.percent(50) {
            self.business_key.clone_from(&instance.business_key);
        }
        for variable in &instance.variables[1..] {
            if random.percent(30) {
                self.keys.push(variable.clone());
            }
        }
    }

    pub fn message(&self) -> Message {
        let variable = |(name, value): &(String, Value)| Variable {
            name: name.clone(),
            value: value.clone(),
        };
        Message {
            dedup_key: DedupKey::new(String::new()),
            action: Action::Correlate(Correlation {
                message_name: self.name.clone(),
                business_key: self.business_key.clone(),
                correlation_keys: self.keys.iter().map(variable).collect(),
                process_instance_id: self.instance.clone(),
                tenant: self.tenant.clone(),
            }),
            variables: Vec::new(),
            order_key: None,
        }
    }

    pub fn rest(&self) -> Json {
        let keys: serde_json::Map<String, Json> = self
            .keys
            .iter()
            .map(|(name, value)| (name.clone(), rest(value)))
            .collect();
        let mut body = json!({
            "messageName": self.name,
            "businessKey": self.business_key,
            "processInstanceId": self.instance,
            "correlationKeys": keys,
            "resultEnabled": true,
        });
        match &self.tenant {
            Tenant::Any => {}
            Tenant::Without => body["withoutTenantId"] = json!(true),
            Tenant::Is(tenant) => body["tenantId"] = json!(tenant),
        }
        body
    }
}

fn tenant(tenant: Option<&str>) -> Tenant {
    tenant.map_or(Tenant::Without, |tenant| Tenant::Is(tenant.to_owned()))
}

/// The same value to a person's eye, of other types.
fn others(value: &Value) -> Vec<Value> {
    let fives = [
        Value::String("5".to_owned()),
        Value::Integer(5),
        Value::Long(5),
        Value::Short(5),
        Value::Double(5.0),
    ];
    let alike = match value {
        value if fives.contains(value) => fives.to_vec(),
        Value::Integer(1) | Value::Boolean(_) => vec![Value::Integer(1), Value::Boolean(true)],
        Value::Date(_) | Value::Long(DATE) => vec![Value::Date(DATE), Value::Long(DATE)],
        Value::String(text) if text.is_empty() => vec![Value::Null],
        _ => Vec::new(),
    };
    alike.into_iter().filter(|other| other != value).collect()
}

fn pick<'a>(
    world: &'a World<'_>,
    random: &mut Random,
    wanted: impl Fn(&Instance) -> bool,
) -> &'a Instance {
    let found: Vec<&Instance> = world.instances.iter().filter(|i| wanted(i)).collect();
    // A round may have none of a kind; then anybody serves.
    if found.is_empty() {
        return &world.instances[random.below(world.instances.len())];
    }
    random.one_of(&found)
}
