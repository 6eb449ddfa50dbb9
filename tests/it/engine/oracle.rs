//! The engine as oracle: what we decide for a random message on a random state is what `POST /message`
//! of a real node then does with the same message on the same state.

mod probe;
mod random;
mod world;

use std::collections::BTreeMap;

use sluice::engine::{Ask, Engine as _, Outcome};
use sluice::inbox::{Inbox, RowId};
use sluice::message::{Hash, Tenant, WaitReason};

use super::{Node, Place};
use crate::rig::{Answer, unique};
use probe::{Aim, Probe};
use random::Random;
use world::{TENANTS, World};

/// Messages of one run, and the fewest of each class.
const MESSAGES: usize = 330;
const OF_EACH: usize = 20;
/// Each state is tried by so many messages.
const OF_A_ROUND: usize = 75;

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// The execution that gets it.
    Execution(String),
    /// The definition of which an instance is started.
    Start(String),
    Nobody,
    Many,
}

impl Fate {
    /// What the engine says that it did.
    fn of(answer: &Answer) -> Fate {
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        match answer.status {
            200 => {
                let result = &answer.body[0];
                match result["resultType"].as_str() {
                    Some("Execution") => Fate::Execution(text(&result["execution"]["id"])),
                    _ => Fate::Start(text(&result["processInstance"]["definitionId"])),
                }
            }
            400 => {
                let message = text(&answer.body["message"]);
                assert!(
                    message.contains("MismatchingMessageCorrelation"),
                    "{message}"
                );
                if message.contains("ENGINE-13030") || message.contains("ENGINE-13031") {
                    Fate::Many
                } else {
                    Fate::Nobody
                }
            }
            status => panic!("the engine answers {status} {}", answer.body),
        }
    }
}

/// What we would do: looks and hands over, reads whom, and rolls back.
async fn decide(node: &Node<'_>, probe: &Probe) -> Fate {
    let message = probe.message();
    let row = RowId::fresh();
    let ask = Ask {
        row,
        epoch: 1,
        redriven: false,
        message: &message,
        identity: Hash::of(&[row.0.as_bytes()]),
        start_if_nobody: true,
        broadcast: false,
    };
    let mut tx = node.inbox.begin().await.unwrap();
    let matched = node.engine.look(&mut tx, &[ask]).await.unwrap();
    let outcome = matched.outcome(0).clone();
    let missed = matched.hand(&mut tx, &[row].into()).await.unwrap();
    assert!(missed.is_empty(), "{missed:?}");
    match outcome {
        Outcome::Nobody
        | Outcome::Wait {
            reason: WaitReason::UnknownMessage,
            ..
        } => Fate::Nobody,
        Outcome::Wait {
            reason: WaitReason::Ambiguous,
            ..
        } => Fate::Many,
        Outcome::Hand => {
            let execution = node.execution_of(&mut tx, row).await;
            Fate::Execution(execution)
        }
        Outcome::Effect {
            process_instance_id,
        } => {
            let instance = process_instance_id.unwrap();
            Fate::Start(node.definition_of(&mut tx, &instance).await)
        }
        other => panic!("{other:?}"),
    }
}

/// How many messages met what.
#[derive(Default)]
struct Classes(BTreeMap<&'static str, usize>);

impl Classes {
    fn count(&mut self, aim: Aim, probe: &Probe, fate: &Fate, world: &World<'_>, child: bool) {
        let mut add = |class| *self.0.entry(class).or_default() += 1;
        add(match fate {
            Fate::Execution(_) => "one",
            Fate::Start(_) => "start",
            Fate::Nobody => "none",
            Fate::Many => "many",
        });
        add(match probe.tenant {
            Tenant::Any => "tenant any",
            Tenant::Without => "tenant without",
            Tenant::Is(_) => "tenant is",
        });
        let taken = matches!(fate, Fate::Execution(_));
        if aim == Aim::SuspendedInstance && !taken {
            add("suspended instance");
        }
        if aim == Aim::SuspendedDefinition && !matches!(fate, Fate::Execution(_)) {
            add("suspended definition");
        }
        if aim == Aim::OfSuspendedDefinition && taken {
            add("instance of a suspended definition");
        }
        if aim == Aim::OtherType && !taken {
            add("type mismatch");
        }
        if child {
            add("call-activity child");
        }
        debug_assert!(!world.instances.is_empty());
    }

    fn missing(&self) -> Vec<&'static str> {
        [
            "one",
            "many",
            "none",
            "start",
            "suspended instance",
            "suspended definition",
            "instance of a suspended definition",
            "tenant any",
            "tenant without",
            "tenant is",
            "type mismatch",
            "call-activity child",
        ]
        .into_iter()
        .filter(|class| self.0.get(class).copied().unwrap_or(0) < OF_EACH)
        .collect()
    }
}

#[tokio::test]
async fn our_decision_is_what_the_engine_then_does() {
    let seed = crate::rig::seed();
    println!("SLUICE_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let place = Place::still().await;
    let engine = &place.engine;
    let (suffix, text) = (unique(), include_str!("oracle/models.bpmn"));
    let mut deployments = Vec::new();
    // The second version without tenant takes the start subscriptions over from the first.
    for tenant in [&[None][..], &TENANTS].concat() {
        let models = vec![("oracle".to_owned(), text.to_owned())];
        deployments.push(engine.deploy_texts(&suffix, models, tenant).await);
    }
    let names = &deployments[0];
    let node = place.node(&[]).await;

    let mut classes = Classes::default();
    let (mut messages, mut round) = (0, 0);
    while messages < MESSAGES || !classes.missing().is_empty() {
        assert!(
            round < 12,
            "too few of {:?} in {:?}",
            classes.missing(),
            classes.0
        );
        let world = World::new(engine, names, round, &mut random).await;
        for number in 0..OF_A_ROUND {
            let aim = Aim::ALL[number % Aim::ALL.len()];
            let probe = Probe::aimed(aim, &world, names, &mut random);
            let ours = decide(&node, &probe).await;
            let answer = engine.correlate(probe.rest()).await;
            let theirs = Fate::of(&answer);
            assert_eq!(
                ours, theirs,
                "seed {seed}, message {messages}, {aim:?}: {probe:?}, answered {}",
                answer.body
            );
            let of = answer.body[0]["execution"]["processInstanceId"].as_str();
            let child = world
                .instances
                .iter()
                .any(|i| i.is_child && Some(&*i.id) == of);
            classes.count(aim, &probe, &theirs, &world, child);
            messages += 1;
        }
        world.clear().await;
        round += 1;
    }
    println!("{messages} messages in {round} states: {:?}", classes.0);
}
