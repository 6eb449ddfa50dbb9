//! The models are written in a short notation that [`bpmn`] turns into XML: statements separated by
//! `;` or line ends, either `a > b > c` for sequence flows or an element's name, its id and options.

use std::fmt::Write;

use proptest::prelude::*;

use super::token_game::most_waiting;
use super::*;

const BPMN: &str = "http://www.omg.org/spec/BPMN/20100524/MODEL";

/// The resource with one executable process `p` that the notation describes.
fn bpmn(notation: &str) -> String {
    let mut body = String::new();
    let mut open = Vec::new();
    for statement in notation
        .split([';', '\n'])
        .map(str::trim)
        .filter(|s| !s.is_empty())
    {
        if statement == "}" {
            let name: String = open.pop().expect("an open subprocess");
            write!(body, "</{name}>").expect("a string");
        } else if statement.contains('>') {
            let nodes: Vec<&str> = statement.split('>').map(str::trim).collect();
            for pair in nodes.windows(2) {
                let (from, to) = (pair[0], pair[1]);
                let mut id = format!("{from}_{to}");
                while body.contains(&format!(r#" id="{id}""#)) {
                    id.push('_');
                }
                write!(
                    body,
                    r#"<sequenceFlow id="{id}" sourceRef="{from}" targetRef="{to}"/>"#
                )
                .expect("a string");
            }
        } else if let Some(name) = element(&mut body, statement) {
            open.push(name);
        }
    }
    format!(
        r#"<definitions xmlns="{BPMN}" xmlns:camunda="http://camunda.org/schema/1.0/bpmn"
           targetNamespace="t"><message id="m_M" name="M"/><message id="m_A" name="A"/>
           <message id="m_B" name="B"/><message id="m_X" name="M-${{key}}"/>
           <process id="p" isExecutable="true">{body}</process></definitions>"#
    )
}

/// Writes an element; returns its name when its content follows up to a `}`.
fn element(body: &mut String, statement: &str) -> Option<String> {
    let mut words = statement.split_whitespace();
    let name = words.next().expect("an element name");
    let id = words.next().expect("an id");
    let mut attributes = format!(r#" id="{id}""#);
    let mut children = String::new();
    let mut is_open = false;
    for word in words {
        let (option, value) = word.split_once('=').unwrap_or((word, ""));
        let looping = |rest| format!("<multiInstanceLoopCharacteristics{rest}/>");
        match option {
            "{" => is_open = true,
            "parallel" => children.push_str(&looping("")),
            "sequential" => children.push_str(&looping(r#" isSequential="true""#)),
            "message" if name != "receiveTask" => {
                let definition = format!(r#"<messageEventDefinition messageRef="m_{value}"/>"#);
                children.push_str(&definition);
            }
            "link" | "timer" | "signal" | "conditional" | "error" | "escalation" | "compensate" => {
                let definition = format!(r#"<{option}EventDefinition name="{value}"/>"#);
                children.push_str(&definition);
            }
            _ => {
                let (attribute, value) = match option {
                    "message" => ("messageRef", format!("m_{value}")),
                    "byEvent" => ("triggeredByEvent", "true".to_owned()),
                    "beside" if name == "startEvent" => ("isInterrupting", "false".to_owned()),
                    "beside" => ("cancelActivity", "false".to_owned()),
                    "on" => ("attachedToRef", value.to_owned()),
                    "forCompensation" => ("isForCompensation", "true".to_owned()),
                    _ => (option, value.to_owned()),
                };
                write!(attributes, r#" {attribute}="{value}""#).expect("a string");
            }
        }
    }
    write!(body, "<{name}{attributes}>{children}").expect("a string");
    if is_open {
        return Some(name.to_owned());
    }
    write!(body, "</{name}>").expect("a string");
    None
}

fn only(xml: &str) -> Process {
    let mut processes = read(xml.as_bytes()).unwrap_or_else(|error| panic!("{error}: {xml}"));
    assert_eq!(processes.len(), 1, "{xml}");
    processes.remove(0)
}

fn process(notation: &str) -> Process {
    only(&bpmn(notation))
}

fn refusal(notation: &str) -> String {
    match process(notation).single_token("M") {
        Ok(()) => panic!("accepted: {notation}"),
        Err(refusal) => refusal.to_string(),
    }
}

/// Case and notation.
const USUAL: &[(&str, &str)] = &[
    (
        "a straight line",
        "startEvent s; receiveTask r message=M; endEvent e; s > r > e",
    ),
    (
        "a loop over an exclusive gateway",
        "startEvent s; exclusiveGateway x; intermediateCatchEvent c message=M
             exclusiveGateway y; endEvent e; s > x > c > y > e; y > x",
    ),
    (
        "one of two exclusive branches",
        "startEvent s; exclusiveGateway x; receiveTask r message=M; task t; exclusiveGateway y
             endEvent e; s > x > r > y > e; x > t > y",
    ),
    (
        "one branch of a parallel block, another name in the other",
        "startEvent s; parallelGateway f; receiveTask r message=M; receiveTask q message=A
             parallelGateway j; endEvent e; s > f > r > j > e; f > q > j",
    ),
    (
        "after a parallel join",
        "startEvent s; parallelGateway f; task a; task b; parallelGateway j
             receiveTask r message=M; endEvent e; s > f > a > j > r > e; f > b > j",
    ),
    (
        "a parallel block in a loop",
        "startEvent s; exclusiveGateway m; parallelGateway f; receiveTask r message=M; task b
             parallelGateway j; exclusiveGateway x; endEvent e
             s > m > f > r > j > x > e; f > b > j; x > m",
    ),
    (
        "an implicit fork, joined",
        "startEvent s; task t; task a; receiveTask r message=M; parallelGateway j; task u
             s > t > a > j > u; t > r > j",
    ),
    (
        "an event-based gateway with other events",
        "startEvent s; eventBasedGateway g; intermediateCatchEvent c message=M
             intermediateCatchEvent d message=A; intermediateCatchEvent t timer
             exclusiveGateway x; endEvent e; s > g > c > x > e; g > d > x; g > t > g",
    ),
    (
        "an interrupting boundary event",
        "startEvent s; userTask u; boundaryEvent b on=u message=M; endEvent e
             s > u > e; b > u",
    ),
    (
        "a non-interrupting boundary event: one subscription for each host",
        "startEvent s; userTask u; boundaryEvent b on=u beside message=M; task t; s > u; b > t",
    ),
    (
        "a reminder beside the catcher",
        "startEvent s; receiveTask r message=M; boundaryEvent b on=r beside timer; sendTask t
             endEvent e; endEvent f; s > r > e; b > t > f",
    ),
    (
        "a boundary event on a multi-instance host: one subscription for the body",
        "startEvent s; userTask u parallel; boundaryEvent b on=u message=M; task t; s > u; b > t",
    ),
    (
        "an interrupting event subprocess",
        "startEvent s; userTask u; s > u
             subProcess e byEvent {; startEvent es message=M; task t; es > t; }",
    ),
    (
        "the start of an event subprocess that does not interrupt",
        "startEvent s; userTask u; s > u
             subProcess e byEvent {; startEvent es beside message=M; task t; es > t; }",
    ),
    (
        "inside an interrupting event subprocess",
        "startEvent s; userTask u; s > u
             subProcess e byEvent {; startEvent es error; receiveTask r message=M; es > r; }",
    ),
    (
        "inside subprocesses with a way back",
        "startEvent s; exclusiveGateway m; s > m > o; boundaryEvent b on=o timer; b > m
             subProcess o {; startEvent os; os > i; transaction i {
             startEvent is; receiveTask r message=M; is > r; }; }",
    ),
    (
        "an event subprocess inside a subprocess",
        "startEvent s; s > o; subProcess o {; startEvent os; userTask u; os > u
             subProcess e byEvent {; startEvent es beside message=M; }; }",
    ),
    (
        "sequential multi-instance",
        "startEvent s; s > o; subProcess o sequential {; startEvent os
             receiveTask r message=M sequential; os > r; }",
    ),
    (
        "a task's default flow beside one condition",
        "startEvent s; task t default=t_m; task u; exclusiveGateway m; receiveTask r message=M
         s > t > u > m > r; t > m",
    ),
    (
        "a link back",
        "startEvent s; receiveTask r message=M; intermediateThrowEvent t link=L
             intermediateCatchEvent c link=L; s > r > t; c > r",
    ),
    (
        "several start events",
        "startEvent s; startEvent s2 message=A; receiveTask r message=M; s > r; s2 > r",
    ),
    (
        "another process's fork, and a catcher that nothing leads to",
        "startEvent s; task t; s > t; receiveTask r message=M",
    ),
];

#[test]
fn a_single_token_is_proved_for_what_people_usually_draw() {
    for (case, notation) in USUAL {
        let process = process(notation);
        assert_eq!(process.single_token("M"), Ok(()), "{case}");
        assert!(most_waiting(&process.graph, "M") < 2, "{case}");
    }
}

#[test]
fn a_refusal_names_the_element_and_the_reason() {
    let cases = [
        (
            "startEvent s message=M; task t; s > t",
            "no element of the process waits for message 'M'",
        ),
        (
            "startEvent s; receiveTask q message=M; receiveTask r message=M; s > q > r",
            "receiveTask 'q' and receiveTask 'r' both wait for message 'M'",
        ),
        (
            "startEvent s; receiveTask q message=X; receiveTask r message=M; s > q > r",
            "the message name of receiveTask 'q' is an expression and may become any name",
        ),
        (
            "startEvent s; receiveTask r message=M parallel; s > r",
            "receiveTask 'r' is multi-instance, so receiveTask 'r' may wait several times at once",
        ),
        (
            "startEvent s; s > o; subProcess o parallel {; startEvent os; receiveTask r message=M
             os > r; }",
            "subProcess 'o' is multi-instance, so receiveTask 'r' may wait several times at once",
        ),
        (
            "startEvent s; s > o; subProcess o parallel {; startEvent os
             subProcess e byEvent {; startEvent es message=M; }; }",
            "subProcess 'o' is multi-instance, so startEvent 'es' may wait several times at once",
        ),
        (
            "startEvent s; userTask u; s > u; subProcess e byEvent {
             startEvent es beside timer; receiveTask r message=M; es > r; }",
            "subProcess 'e' may run any number of times at once, so receiveTask 'r' may wait twice",
        ),
        (
            "startEvent s; task t; boundaryEvent b on=t compensate
             receiveTask r message=M forCompensation; s > t",
            "receiveTask 'r' may run any number of times at once, so receiveTask 'r' may wait twice",
        ),
        (
            "startEvent s; parallelGateway f; task a; task b; receiveTask r message=M
             s > f > a > r; f > b > r",
            "the flow forks at parallelGateway 'f' and may reach receiveTask 'r' twice, \
             so receiveTask 'r' may wait twice",
        ),
        (
            "startEvent s; complexGateway x; receiveTask r message=M; s > x > r",
            "complexGateway 'x' is not an element whose flow of tokens is known",
        ),
    ];
    for (notation, reason) in cases {
        assert_eq!(refusal(notation), reason, "{notation}");
    }
}

#[test]
fn what_lies_on_a_cycle_may_wait_for_another_one_later() {
    let again = |notation: &str| process(notation).waits_once("M").is_err();
    let returning = [
        "startEvent s; receiveTask r message=M; exclusiveGateway x; s > r > x > r",
        "startEvent s; receiveTask r message=M sequential; s > r",
        "startEvent s; s > o; subProcess o sequential {; startEvent os; receiveTask r message=M; os > r; }",
        "startEvent s; s > o; exclusiveGateway x; subProcess o {; startEvent os; receiveTask r message=M
         os > r; }; o > x > o",
        "startEvent s; userTask t; boundaryEvent b on=t message=M; s > t; b > t",
        "startEvent s; receiveTask r message=M; intermediateThrowEvent back link=L
         intermediateCatchEvent here link=L; s > r > back; here > r",
    ];
    for notation in returning {
        assert!(again(notation), "{notation}");
    }
    let once = [
        "startEvent s; receiveTask r message=M; endEvent e; s > r > e",
        "startEvent s; exclusiveGateway x; userTask t; receiveTask r message=M; s > x > t > x; x > r",
        "startEvent s; userTask t; boundaryEvent b on=t message=M; endEvent e; s > t > e; b > e",
        "startEvent s; s > o; subProcess o {; startEvent os; receiveTask r message=M; os > r; }",
        "startEvent s; userTask u; s > u; subProcess e byEvent {; startEvent es message=M; }",
    ];
    for notation in once {
        assert!(!again(notation), "{notation}");
    }
}

/// Case and notation.
const FORKED: &[(&str, &str)] = &[
    (
        "an inclusive gateway",
        "startEvent s; inclusiveGateway f; task a; receiveTask r message=M
          s > f > a > r; f > r",
    ),
    (
        "several flows out of a task",
        "startEvent s; task f; task a; receiveTask r message=M
          s > f > a > r; f > r",
    ),
    (
        "several flows out of the start",
        "startEvent f; task a; receiveTask r message=M
          f > a > r; f > r",
    ),
    (
        "a non-interrupting boundary event",
        "startEvent s; task t; boundaryEvent f on=t beside timer
          receiveTask r message=M; s > t; f > r",
    ),
    (
        "a fork that can be reached from its branch",
        "startEvent s; parallelGateway f; task a
          receiveTask r message=M; exclusiveGateway m; s > m > f > a > m; f > r",
    ),
    (
        "an exclusive merge where a join should be",
        "startEvent s; parallelGateway f; task a; task b
          exclusiveGateway m; receiveTask r message=M; s > f > a > m > r; f > b > m",
    ),
    (
        "a join that two tokens of one branch can open",
        "startEvent s; parallelGateway f; task a
          task b; task c; task d; exclusiveGateway m; parallelGateway j; receiveTask r message=M
          s > f > a > m > j > r; f > b > m; f > c > m; f > d > j",
    ),
    (
        "the default flow of a multi-instance task",
        "startEvent s; task f parallel default=f_r
          task a; receiveTask r message=M; s > f > a > r; f > r",
    ),
    (
        "a subprocess around the catcher",
        "startEvent s; parallelGateway f; task a; task b; s > f
          f > a > o; f > b > o; subProcess o {; startEvent os; receiveTask r message=M; os > r; }",
    ),
    (
        "an event-based gateway",
        "startEvent s; task f; task a; eventBasedGateway g
          intermediateCatchEvent c message=M; intermediateCatchEvent t timer
          s > f > a > g > c; f > g > t",
    ),
    (
        "a host of a boundary event",
        "startEvent s; task f; task a; task h
          boundaryEvent b on=h message=M; s > f > a > h; f > h",
    ),
    (
        "a link",
        "startEvent s; task f; intermediateThrowEvent t link=L
          intermediateCatchEvent c link=L; receiveTask r message=M; s > f > t; c > r; f > r",
    ),
    (
        "an event subprocess's boundary event",
        "startEvent s; task t; receiveTask r message=M
          s > t; boundaryEvent f on=e timer; f > r; subProcess e byEvent {
          startEvent es beside message=A; }",
    ),
    (
        "a fork behind an event subprocess",
        "startEvent s; task f; task a; receiveTask r message=M
          boundaryEvent b on=e error; b > f > a > r; f > r; subProcess e byEvent {
          startEvent es error; }",
    ),
];

#[test]
fn a_fork_before_its_join_is_refused() {
    for (case, notation) in FORKED {
        let process = process(notation);
        let refused = process.single_token("M");
        assert!(
            matches!(refused, Err(Refusal::Fork { .. } | Refusal::Repeats { .. })),
            "{case}: {refused:?}"
        );
        assert_eq!(most_waiting(&process.graph, "M"), 2, "{case}");
    }
}

#[test]
fn a_scope_too_large_for_the_proof_is_refused() {
    let mut notation = String::from("startEvent s; receiveTask r message=M");
    for nth in 0..1_000 {
        write!(notation, "; task t{nth}").expect("a string");
    }
    assert!(matches!(
        process(&notation).single_token("M"),
        Err(Refusal::TooLarge { places: 1_003 })
    ));
}

#[test]
fn a_long_flow_against_the_order_of_the_file_is_proved_in_time() {
    let mut notation = String::from("startEvent s; receiveTask r message=M; t0 > r; s > t899");
    for nth in 0..900 {
        write!(notation, "; task t{nth}").expect("a string");
        if nth > 0 {
            write!(notation, "; t{nth} > t{}; t{nth} > t{nth}", nth - 1).expect("a string");
        }
    }
    // Every task forks into itself, so every pair of places is found.
    assert!(process(&notation).single_token("M").is_err());
}

#[test]
fn a_start_is_found_by_message_and_by_key() {
    let process = process(
        "startEvent s; startEvent a message=A camunda:asyncBefore=true; startEvent t timer
         startEvent two message=B signal; task u; s > u; a > u; t > u; two > u
         subProcess e byEvent {; startEvent es error camunda:initiator=inner; }
         subProcess o {; startEvent os; }",
    );
    let start = |id: &str, async_before| StartEvent {
        id: id.to_owned(),
        async_before,
        initiator: None,
    };
    assert_eq!(process.start_by_key(), Ok(start("s", false)));
    assert_eq!(process.start_by_message("A"), Ok(start("a", true)));
    let message_name = "B".to_owned();
    assert_eq!(
        process.start_by_message("B"),
        Err(Refusal::NoMessageStart { message_name })
    );
}

#[test]
fn a_start_by_key_needs_exactly_one_start_without_a_trigger() {
    assert_eq!(
        process("startEvent s message=M").start_by_key(),
        Err(Refusal::NoPlainStart)
    );
    let two = process("startEvent s; startEvent t").start_by_key();
    assert!(matches!(two, Err(Refusal::SeveralStarts { .. })));
}

#[test]
fn a_start_by_rows_is_refused_when_an_event_subprocess_would_not_listen() {
    let cases = [
        ("message=A", false),
        ("signal", false),
        ("timer", false),
        ("conditional", false),
        ("error message=A", false),
        ("", false),
        ("error", true),
        ("escalation", true),
        ("compensate", true),
    ];
    for (trigger, is_startable) in cases {
        let process = process(&format!(
            "startEvent s; startEvent a message=M
             subProcess e byEvent {{; startEvent es beside {trigger}; }}"
        ));
        assert_eq!(process.start_by_key().is_ok(), is_startable, "{trigger}");
        assert_eq!(
            process.start_by_message("M").is_ok(),
            is_startable,
            "{trigger}"
        );
    }
    let inner = "startEvent s; s > o; subProcess o {; startEvent os
                 subProcess e byEvent {; startEvent es timer; }; }";
    assert!(
        process(inner).start_by_key().is_ok(),
        "a nested one is created when it is reached"
    );
}

#[test]
fn the_initiator_is_the_last_that_the_process_names() {
    let process = process(
        "startEvent s camunda:initiator=first; startEvent a message=A camunda:initiator=last",
    );
    let start = process.start_by_key().expect("a start");
    assert_eq!(start.initiator.as_deref(), Some("last"));
}

#[test]
fn names_are_collected_from_starts_and_catchers() {
    let process = process(
        "startEvent s message=A; receiveTask r message=B; receiveTask q; endEvent e message=M
         boundaryEvent b on=r message=X; s > r > q > e",
    );
    assert_eq!(process.message_names, ["A", "B"].map(str::to_owned).into());
    assert!(process.has_name_expressions);
}

#[test]
fn pools_prefixes_and_the_order_of_the_file_do_not_matter() {
    let xml = r#"<?xml version="1.0" encoding="UTF-8"?>
      <b:definitions xmlns:b="http://www.omg.org/spec/BPMN/20100524/MODEL" xmlns:t="t"
          xmlns:o="http://operaton.org/schema/1.0/bpmn" targetNamespace="t">
        <b:collaboration id="c"><b:participant id="x" processRef="one"/></b:collaboration>
        <b:process id="one" isExecutable="true">
          <b:extensionElements><o:properties/></b:extensionElements>
          <b:laneSet id="l"><b:lane id="l1"><b:flowNodeRef>s</b:flowNodeRef></b:lane></b:laneSet>
          <b:startEvent id="s" o:asyncBefore="true"/>
          <b:receiveTask id="r" messageRef="t:m1"><b:incoming>f</b:incoming></b:receiveTask>
          <b:sequenceFlow id="f" sourceRef="s" targetRef="r">
            <b:conditionExpression>${a &gt; 1}</b:conditionExpression>
          </b:sequenceFlow>
        </b:process>
        <b:process id="silent"><b:startEvent id="z"/></b:process>
        <b:process id="drawn" isExecutable="false"><b:nonsense/></b:process>
        <b:process id="two" isExecutable="true">
          <b:startEvent id="s2"><b:messageEventDefinition messageRef="m2"/></b:startEvent>
        </b:process>
        <b:message id="m1" name="Größe &amp; &#x4d;aß"/>
        <b:message id="m2" name="Two"/>
      </b:definitions>"#;
    let processes = read(xml.as_bytes()).expect("a model");
    let keys: Vec<&str> = processes
        .iter()
        .map(|process| process.key.as_str())
        .collect();
    assert_eq!(keys, ["one", "two"]);
    assert_eq!(processes[0].single_token("Größe & Maß"), Ok(()));
    assert!(processes[0].start_by_key().expect("a start").async_before);
    assert_eq!(
        processes[1].start_by_message("Two").expect("a start").id,
        "s2"
    );
}

#[test]
fn a_name_that_the_model_does_not_settle_may_be_any_name() {
    for name in ["${a}", "a#{b}c", r"a\\b", ""] {
        let xml = bpmn("startEvent s; receiveTask r message=A; s > r")
            .replace(r#"name="A""#, &format!(r#"name="{name}""#));
        let refused = only(&xml).single_token("M");
        assert!(
            matches!(refused, Err(Refusal::NameExpression { .. })),
            "{name}: {refused:?}"
        );
    }
    let unknown = process("startEvent s; receiveTask r message=missing; s > r");
    assert!(matches!(
        unknown.single_token("M"),
        Err(Refusal::NameExpression { .. })
    ));
}

type Expected = fn(&ModelError) -> bool;

#[test]
fn what_the_engine_would_not_read_the_same_way_is_an_error() {
    let valid = bpmn("startEvent s; userTask u; boundaryEvent b on=u timer; s > u");
    let cases: [(&str, &str, Expected); 9] = [
        ("<definitions", "<!DOCTYPE d><definitions", |e| {
            matches!(e, ModelError::Doctype { .. })
        }),
        ("<definitions", "<nothing/><definitions", |e| {
            matches!(e, ModelError::NotBpmn { .. })
        }),
        ("MODEL", "OTHER", |e| {
            matches!(e, ModelError::NotBpmn { line: 1 })
        }),
        ("</definitions>", "", |e| {
            matches!(e, ModelError::Unclosed { line: 4 })
        }),
        ("</process>", "</proces>", |e| {
            matches!(e, ModelError::Xml { line: 4, .. })
        }),
        (r#"id="u""#, "", |e| {
            matches!(e, ModelError::NoId { line: 4, .. })
        }),
        (r#"id="u""#, r#"id="s""#, |e| {
            matches!(e, ModelError::DuplicateId { line: 4, .. })
        }),
        (r#"Ref="u""#, r#"Ref="v""#, |e| {
            matches!(e, ModelError::Dangling { line: 4, .. })
        }),
        (
            "attachedToRef",
            r#"cancelActivity="1" attachedToRef"#,
            |e| {
                matches!(
                    e,
                    ModelError::Flag {
                        attribute: "cancelActivity",
                        ..
                    }
                )
            },
        ),
    ];
    for (from, to, is_expected) in cases {
        let xml = valid.replacen(from, to, 1);
        let error = read(xml.as_bytes()).expect_err(&xml);
        assert!(is_expected(&error), "{from} → {to}: {error:?}");
    }
    assert!(matches!(
        read(b"<a \xff/>"),
        Err(ModelError::NotUtf8 { offset: 3 })
    ));
    let latin = format!(r#"<?xml version="1.0" encoding="ISO-8859-1"?><!-- ß -->{valid}"#);
    assert!(matches!(
        read(latin.as_bytes()),
        Err(ModelError::Encoding { .. })
    ));
}

#[test]
fn deep_nesting_is_an_error_and_not_a_crash() {
    let deep = "<documentation>".repeat(100_000);
    let xml = bpmn("startEvent s").replace("<startEvent", &format!("{deep}<startEvent"));
    assert!(matches!(
        read(xml.as_bytes()),
        Err(ModelError::TooDeep { .. })
    ));
}

/// One node of a random scope: what it is, where its flows go, how it is marked.
type Draw = (u8, Vec<u8>, u8);

fn draws(most: usize) -> impl Strategy<Value = Vec<Draw>> {
    let draw = (
        0..20_u8,
        prop::collection::vec(any::<u8>(), 0..3),
        any::<u8>(),
    );
    prop::collection::vec(draw, 2..most)
}

/// Writes a random scope: a start, the drawn nodes after each other, and their further flows.
/// `catcher` is the node that waits for `M`; `inner` the content of a subprocess, if one is drawn.
fn scope(prefix: &str, draws: &[Draw], catcher: usize, mut inner: Option<String>) -> String {
    let mut text = format!("startEvent {prefix}s");
    let node = |nth: usize| format!("{prefix}{}", nth % draws.len());
    write!(text, "; {prefix}s > {}", node(0)).expect("a string");
    for (nth, (kind, targets, mark)) in draws.iter().enumerate() {
        let id = node(nth);
        let message = if nth == catcher {
            "message=M"
        } else {
            "message=A"
        };
        let looping = match mark % 8 {
            0 if *mark > 128 => "parallel",
            1 => "sequential",
            _ => "",
        };
        let beside = if mark % 3 == 0 { "beside" } else { "" };
        let mut leaves = vec![id.clone()];
        let element = match kind {
            _ if nth == catcher && !(12..17).contains(kind) => {
                format!("receiveTask {id} {message} {looping}")
            }
            0..4 => format!("task {id} {looping}"),
            4..6 => format!("exclusiveGateway {id}"),
            6..10 => format!("parallelGateway {id}"),
            10 => format!("inclusiveGateway {id}"),
            11 => format!("task {id} default={id}_{}", node(nth + 1)),
            12 => format!("intermediateCatchEvent {id} {message}"),
            13..15 => {
                leaves = vec![format!("{id}c"), format!("{id}t")];
                format!(
                    "eventBasedGateway {id}; intermediateCatchEvent {id}c {message}
                     intermediateCatchEvent {id}t timer; {id} > {id}c; {id} > {id}t"
                )
            }
            15..17 => {
                leaves.push(format!("{id}b"));
                format!("task {id} {looping}; boundaryEvent {id}b on={id} {beside} {message}")
            }
            _ => match inner.take() {
                Some(inner) => format!("subProcess {id} {looping} {{; {inner}; }}"),
                None => format!("task {id}"),
            },
        };
        write!(text, "; {element}").expect("a string");
        let is_last = nth + 1 == draws.len();
        let mut targets: Vec<usize> = targets.iter().map(|&target| usize::from(target)).collect();
        // Most nodes lead on to the next one, so that most of the drawing is reached.
        if !is_last && mark % 5 != 0 {
            targets.push(nth + 1);
        }
        for (target, leaf) in targets.iter().zip(leaves.iter().cycle()) {
            write!(text, "; {leaf} > {}", node(*target)).expect("a string");
        }
    }
    if let Some(inner) = inner {
        // Not drawn as an activity: it becomes an event subprocess.
        let inner = inner.replacen(&format!("startEvent {prefix}is"), "", 1);
        let (interrupts, trigger) = if draws.len().is_multiple_of(2) {
            ("", "error")
        } else {
            ("beside", "timer")
        };
        write!(
            text,
            "; subProcess {prefix}e byEvent {{; startEvent {prefix}is {interrupts} {trigger}; {inner}; }}"
        )
        .expect("a string");
    }
    text
}

proptest! {
    #[test]
    fn no_process_that_is_accepted_ever_waits_twice(
        outer in draws(7),
        inner in draws(5),
        catcher in any::<prop::sample::Index>(),
        is_inner in any::<bool>(),
    ) {
        let absent = usize::MAX;
        let (in_outer, in_inner) = if is_inner {
            (absent, catcher.index(inner.len()))
        } else {
            (catcher.index(outer.len()), absent)
        };
        let inner = scope("i", &inner, in_inner, None);
        let notation = scope("", &outer, in_outer, Some(inner));
        let process = process(&notation);
        if process.single_token("M").is_ok() {
            prop_assert!(most_waiting(&process.graph, "M") < 2, "{}", notation);
        }
    }
}
