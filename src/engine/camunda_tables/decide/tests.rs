//! Decisions that depend on what else is in the batch, and on what else the engine has to do. What depends
//! on the engine's own state is asked of a real engine, by the oracle of the integration tests.

use super::*;
use crate::inbox::RowId;
use crate::message::{DedupKey, Hash, Message, Start, Tenant, Value, Variable};

fn facts() -> Facts {
    Facts {
        history: History::Full,
        room: 10,
        has_queue: false,
        candidates: HashMap::new(),
        starts: HashMap::new(),
        definitions: HashMap::from([(
            "definition".to_owned(),
            // Nothing can be said about its tokens, so that only variant B may carry to it.
            Arc::new(Definition::Unreadable("unreadable".to_owned())),
        )]),
        known_names: HashSet::from(["Paid".to_owned()]),
        early: HashMap::new(),
    }
}

fn candidate(subscription: &str) -> Candidate {
    Candidate {
        subscription: subscription.to_owned(),
        revision: 1,
        activity: None,
        instance: format!("instance of {subscription}"),
        root: None,
        tenant: None,
        definition: "definition".to_owned(),
        definition_key: "key".to_owned(),
        deployment: None,
        pending: None,
    }
}

fn message(action: Action) -> Message {
    Message {
        dedup_key: DedupKey::new(String::new()),
        action,
        variables: Vec::new(),
        order_key: None,
    }
}

fn correlation(business_key: &str) -> Message {
    message(Action::Correlate(Correlation {
        message_name: "Paid".to_owned(),
        business_key: Some(business_key.to_owned()),
        correlation_keys: Vec::new(),
        process_instance_id: None,
        tenant: Tenant::Any,
    }))
}

fn ask(message: &Message) -> Ask<'_> {
    Ask {
        row: RowId::fresh(),
        epoch: 1,
        redriven: false,
        message,
        identity: Hash::of(&[]),
        start_if_nobody: false,
        broadcast: false,
    }
}

/// `state` or `waiting/reason`, of each.
fn decided(facts: &Facts, asks: &[Ask<'_>]) -> Vec<String> {
    let (decisions, _) = decide(facts, asks);
    let name = |(outcome, plan): &Decision| {
        let written = matches!(outcome, Outcome::Hand | Outcome::Effect { .. });
        assert!(plan.is_none() || written, "{outcome:?} has a plan");
        match outcome {
            Outcome::Hand => "hand".to_owned(),
            Outcome::Effect { .. } => "effect".to_owned(),
            Outcome::Nobody => "nobody".to_owned(),
            Outcome::Wait { reason, .. } => format!("waiting/{}", reason.as_str()),
            Outcome::Dead { reason, .. } => format!("dead/{}", reason.as_str()),
        }
    };
    decisions.iter().map(name).collect()
}

#[test]
fn of_two_messages_for_one_subscription_the_earlier_one_takes_it() {
    let (one, other) = (correlation("one"), correlation("other"));
    let asks = [ask(&one), ask(&one), ask(&other)];
    let mut facts = facts();
    for (index, subscription) in [(0, "a"), (1, "a"), (2, "b")] {
        let candidates = vec![candidate(subscription)];
        facts.candidates.insert(index, candidates);
    }
    assert_eq!(decided(&facts, &asks), ["hand", "waiting/busy", "hand"]);
}

#[test]
fn without_room_all_that_could_go_queue_and_so_do_those_behind_them() {
    let message = correlation("key");
    let asks = [ask(&message), ask(&message), ask(&message)];
    let mut facts = facts();
    for (index, subscription) in [(0, "a"), (1, "b"), (2, "c")] {
        let candidates = vec![candidate(subscription)];
        facts.candidates.insert(index, candidates);
    }
    facts.room = 1;
    let expected = ["hand", "waiting/backlog", "waiting/backlog"];
    assert_eq!(decided(&facts, &asks), expected);
    assert!(decide(&facts, &asks).1, "a queue began");

    // While others queue, only what has queued itself may go.
    facts.room = 10;
    facts.has_queue = true;
    let mut asks = asks;
    asks[1].redriven = true;
    let expected = ["waiting/backlog", "hand", "waiting/backlog"];
    assert_eq!(decided(&facts, &asks), expected);
}

#[test]
fn a_message_behind_a_start_of_its_business_key_is_early() {
    let start = message(Action::Start(Start {
        by: StartBy::DefinitionKey("key".to_owned()),
        business_key: Some("order".to_owned()),
        tenant: Tenant::Any,
    }));
    let (paid, other) = (correlation("order"), correlation("other"));
    let asks = [ask(&paid), ask(&start), ask(&paid), ask(&other)];
    let mut facts = facts();
    let startable = Startable {
        instance: "instance".to_owned(),
        exists: false,
        candidates: vec![StartCandidate {
            definition: "definition".to_owned(),
            definition_key: "key".to_owned(),
            deployment: None,
            tenant: None,
            suspended: false,
            activity: None,
        }],
    };
    facts.starts.insert(1, startable);
    let bpmn = br#"<definitions xmlns="http://www.omg.org/spec/BPMN/20100524/MODEL">
        <process id="key" isExecutable="true"><startEvent id="start"/></process></definitions>"#;
    let process = super::super::model::read(bpmn).expect("a model").remove(0);
    let known = Arc::new(Definition::Known(Box::new(process)));
    facts.definitions.insert("definition".to_owned(), known);
    let expected = ["nobody", "effect", "waiting/early", "nobody"];
    assert_eq!(decided(&facts, &asks), expected);

    // It was started before, by a row that is purged: perhaps by another message. Nobody is early for it.
    let startable = facts.starts.get_mut(&1).expect("inserted");
    startable.exists = true;
    let expected = ["nobody", "dead/refused", "nobody", "nobody"];
    assert_eq!(decided(&facts, &asks), expected);
}

#[test]
fn a_start_of_another_tenant_is_none_of_ours() {
    let mut facts = facts();
    let start = |tenant: Option<&str>, blocked| PendingStart {
        tenant: tenant.map(str::to_owned),
        blocked,
    };
    let starts = vec![start(Some("a"), true), start(None, false)];
    facts.early.insert("order".to_owned(), starts);
    let of = |tenant: Tenant| {
        let mut paid = correlation("order");
        let Action::Correlate(correlation) = &mut paid.action else {
            unreachable!("it is one");
        };
        correlation.tenant = tenant;
        decided(&facts, &[ask(&paid)]).remove(0)
    };
    assert_eq!(of(Tenant::Any), "waiting/early", "one of them may run");
    assert_eq!(of(Tenant::Is("a".to_owned())), "waiting/blocked");
    assert_eq!(of(Tenant::Is("b".to_owned())), "nobody");
    assert_eq!(of(Tenant::Without), "waiting/early");
}

/// The job of variant C correlates by the name alone when it runs: by then somebody else may wait in the instance.
#[test]
fn a_message_with_correlation_keys_meets_nobody_who_waits_later() {
    let looping = br#"<definitions xmlns="http://www.omg.org/spec/BPMN/20100524/MODEL">
        <message id="paid" name="Paid"/>
        <process id="key" isExecutable="true"><startEvent id="s"/><receiveTask id="r" messageRef="paid"/>
        <exclusiveGateway id="again"/><endEvent id="e"/>
        <sequenceFlow id="1" sourceRef="s" targetRef="r"/><sequenceFlow id="2" sourceRef="r" targetRef="again"/>
        <sequenceFlow id="3" sourceRef="again" targetRef="r"/><sequenceFlow id="4" sourceRef="again" targetRef="e"/>
        </process></definitions>"#;
    let process = super::super::model::read(looping)
        .expect("a model")
        .remove(0);
    let mut facts = facts();
    let known = Arc::new(Definition::Known(Box::new(process)));
    facts.definitions.insert("definition".to_owned(), known);
    facts.candidates.insert(0, vec![candidate("a")]);
    let amount = || Variable {
        name: "amount".to_owned(),
        value: Value::Integer(1),
    };
    let variant = |keys: Vec<Variable>, payload: Vec<Variable>| {
        let mut message = correlation("key");
        message.variables = payload;
        let Action::Correlate(correlation) = &mut message.action else {
            unreachable!("it is one");
        };
        correlation.correlation_keys = keys;
        let (decisions, _) = decide(&facts, &[ask(&message)]);
        match &decisions[0] {
            (_, Some(Plan::Claim { variant, .. })) => variant.as_str(),
            (Outcome::Wait { reason, .. }, _) => reason.as_str(),
            other => panic!("{:?}", other.0),
        }
    };
    assert_eq!(variant(Vec::new(), vec![amount()]), "C");
    assert_eq!(variant(vec![amount()], Vec::new()), "B");
    assert_eq!(variant(vec![amount()], vec![amount()]), "unsupported");
}

#[test]
fn a_payload_goes_only_where_one_catcher_is_sure_to_get_it() {
    let mut with_payload = correlation("key");
    with_payload.variables.push(Variable {
        name: "amount".to_owned(),
        value: Value::Integer(1),
    });
    let without = correlation("key");
    let mut facts = facts();
    facts.candidates.insert(0, vec![candidate("a")]);
    let of = |facts: &Facts, message: &Message, broadcast: bool| {
        let mut asked = ask(message);
        asked.broadcast = broadcast;
        decided(facts, &[asked]).remove(0)
    };
    assert_eq!(of(&facts, &without, false), "hand");
    assert_eq!(of(&facts, &with_payload, false), "waiting/unsupported");
    assert_eq!(of(&facts, &with_payload, true), "hand");
    // Variant B is proven by the job's log, which only the level full keeps.
    facts.history = History::Audit;
    assert_eq!(of(&facts, &without, false), "waiting/unsupported");
}
