//! The numbers behind the status page: what the bridge tells, and what the metrics count.
//!
//! Rates, totals and connections are read from the text that `/metrics` serves, once a second, so that the
//! page and Prometheus cannot disagree and no part counts twice. Only what no metric holds is told: who
//! we are, readiness, rows, nodes, why something is paused. Never waits for anything.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::engine::EngineState;
use crate::http::meter::{Meter, whole};
use crate::http::problems::Problems;
use crate::http::status::{
    DuplicateStatus, EngineStatus, NodeStatus, Readiness, Reason, RouteStatus, SourceStatus,
    Status, Totals,
};
use crate::inbox::{Count, Node, NodeIdentity, StateName};
use crate::metrics::{self, DuplicateCause, Samples, catalogue as metric};

/// What the configuration says about the parts of this node.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    pub sources: Vec<PlannedSource>,
    pub routes: Vec<PlannedRoute>,
    pub engines: Vec<PlannedEngine>,
}

#[derive(Debug, Clone)]
pub struct PlannedSource {
    pub name: String,
    /// `rabbitmq` or `kafka`.
    pub kind: String,
    /// For people: the queue, or the topics and the group.
    pub detail: String,
}

#[derive(Debug, Clone)]
pub struct PlannedRoute {
    pub name: String,
    pub source: String,
    pub engine: String,
}

#[derive(Debug, Clone)]
pub struct PlannedEngine {
    pub name: String,
    /// `camunda_tables` or `sql`.
    pub kind: String,
    /// For people: product, version, history level; may be told later.
    pub detail: String,
    pub max_backlog: Option<u64>,
}

impl Plan {
    /// Brings the metrics of these parts into being at zero.
    pub fn announce(&self) {
        let sources: Vec<_> = self.sources.iter().map(|part| part.name.as_str()).collect();
        let routes: Vec<_> = self.routes.iter().map(|part| part.name.as_str()).collect();
        let engines: Vec<_> = self.engines.iter().map(|part| part.name.as_str()).collect();
        metrics::announce(&sources, &routes, &engines);
    }
}

/// Clones share it.
#[derive(Debug, Clone)]
pub struct Board(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    identity: NodeIdentity,
    started: Instant,
    problems: Problems,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    plan: Plan,
    draining: bool,
    /// What is in the way, by part.
    not_ready: BTreeMap<String, String>,
    paused: HashMap<String, String>,
    engines: HashMap<String, EngineState>,
    inbox: Vec<Count>,
    nodes: Vec<Node>,
    samples: Samples,
    meters: BTreeMap<Meters, Meter>,
}

/// Which counter a meter follows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Meters {
    Deliveries,
    Messages,
    AllDuplicates,
    Recovered,
    Source(String),
    Route(String),
    Through(String),
    Duplicates(String),
    Cause(String),
    Confirmed(String),
}

/// The part that is in the way until the bridge says [`Board::started`].
const START: &str = "start";

impl Board {
    /// A node that is not ready: it starts.
    pub fn new(identity: NodeIdentity, plan: Plan, problems: Problems) -> Self {
        let state = State {
            plan,
            not_ready: BTreeMap::from([(START.to_owned(), "starting".to_owned())]),
            ..State::default()
        };
        Self(Arc::new(Inner {
            identity,
            started: Instant::now(),
            problems,
            state: Mutex::new(state),
        }))
    }

    /// Everything is built and runs.
    pub fn started(&self) {
        self.set_ready(START);
    }

    /// The node takes nothing new; it is not ready any more.
    pub fn draining(&self) {
        self.state().draining = true;
    }

    pub fn is_draining(&self) -> bool {
        self.state().draining
    }

    /// Nothing of this part is in the way any more.
    pub fn set_ready(&self, part: &str) {
        self.state().not_ready.remove(part);
    }

    /// This part is in the way, such as `inbox` or `source payments`.
    pub fn set_not_ready(&self, part: &str, reason: impl Into<String>) {
        self.state()
            .not_ready
            .insert(part.to_owned(), reason.into());
    }

    /// Why a source takes nothing although it is connected; `None` when it does.
    pub fn set_paused(&self, source: &str, reason: Option<String>) {
        let mut state = self.state();
        match reason {
            Some(reason) => drop(state.paused.insert(source.to_owned(), reason)),
            None => drop(state.paused.remove(source)),
        }
    }

    /// What an engine said of itself at its last refresh.
    pub fn set_engine(&self, engine: &str, said: EngineState) {
        self.state().engines.insert(engine.to_owned(), said);
    }

    /// What was learned about an engine after the configuration was read: product, version, history level.
    pub fn set_engine_detail(&self, engine: &str, detail: impl Into<String>) {
        let mut state = self.state();
        let planned = &mut state.plan.engines;
        if let Some(planned) = planned.iter_mut().find(|planned| planned.name == engine) {
            planned.detail = detail.into();
        }
    }

    pub fn set_inbox(&self, counts: Vec<Count>) {
        self.state().inbox = counts;
    }

    pub fn set_nodes(&self, nodes: Vec<Node>) {
        self.state().nodes = nodes;
    }

    /// Takes the counters' totals at this time; called once a second.
    pub fn sample(&self, now: Instant, samples: Samples) {
        let mut state = self.state();
        for (meter, total) in totals(&samples) {
            state.meters.entry(meter).or_default().push(now, total);
        }
        state.samples = samples;
    }

    /// What keeps this node from its work.
    pub fn readiness(&self) -> Readiness {
        self.state().readiness()
    }

    pub fn status(&self) -> Status {
        let problems = self.0.problems.list();
        let state = self.state();
        let mut sources = state.sources();
        for source in &mut sources {
            let about = |problem: &&_| is_about(problem, &source.name);
            source.last_error = problems.iter().find(about).cloned();
        }
        Status {
            node: NodeStatus {
                name: self.0.identity.name.clone(),
                version: self.0.identity.version.clone(),
                incarnation: self.0.identity.incarnation,
                uptime_seconds: self.0.started.elapsed().as_secs(),
                draining: state.draining,
            },
            readiness: state.readiness(),
            totals: state.totals(),
            sources,
            routes: state.routes(),
            engines: state.engines(),
            inbox: state.inbox.clone(),
            nodes: state.nodes.clone(),
            duplicates: state.duplicates(),
            problems,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.0.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_about(problem: &super::status::Problem, name: &str) -> bool {
    problem.subject.as_deref() == Some(name)
}

/// Every counter that the page follows over time.
fn totals(samples: &Samples) -> Vec<(Meters, f64)> {
    let mut totals = vec![
        (Meters::Deliveries, samples.sum(metric::DELIVERIES)),
        (Meters::Messages, samples.sum(metric::MESSAGES)),
        (Meters::AllDuplicates, samples.sum(metric::DUPLICATES)),
        (Meters::Recovered, samples.sum(metric::RECOVERED)),
    ];
    let mut follow = |name: &str, label: &str, meter: fn(String) -> Meters| {
        let sums = samples.sum_by(name, [label]);
        totals.extend(sums.into_iter().map(|([label], sum)| (meter(label), sum)));
    };
    follow(metric::DELIVERIES, "source", Meters::Source);
    follow(metric::MESSAGES, "route", Meters::Route);
    follow(metric::DUPLICATES, "route", Meters::Duplicates);
    follow(metric::DUPLICATES, "cause", Meters::Cause);
    let confirmed = format!("{}_count", metric::HANDED_TO_DONE);
    follow(&confirmed, "engine", Meters::Confirmed);

    let mut through: HashMap<String, f64> = HashMap::new();
    for ([route, outcome], sum) in samples.sum_by(metric::MESSAGES, ["route", "outcome"]) {
        if matches!(outcome.as_str(), "handed" | "done") {
            *through.entry(route).or_default() += sum;
        }
    }
    let through = through.into_iter();
    totals.extend(through.map(|(route, sum)| (Meters::Through(route), sum)));
    totals
}

impl State {
    fn readiness(&self) -> Readiness {
        let drain = self.draining.then(|| Reason {
            part: "drain".to_owned(),
            reason: "the node is stopping".to_owned(),
        });
        let in_the_way = self.not_ready.iter().map(|(part, reason)| Reason {
            part: part.clone(),
            reason: reason.clone(),
        });
        let reasons: Vec<_> = drain.into_iter().chain(in_the_way).collect();
        Readiness {
            ready: reasons.is_empty(),
            reasons,
        }
    }

    fn rate(&self, meter: &Meters) -> super::status::Rate {
        self.meters.get(meter).map(Meter::rate).unwrap_or_default()
    }

    /// The value of a metric for one value of one label; zero where there is no such series.
    fn value(&self, name: &str, label: &str, is: &str) -> f64 {
        let sums = self.samples.sum_by(name, [label]);
        sums.get(&[is.to_owned()]).copied().unwrap_or_default()
    }

    fn totals(&self) -> Totals {
        Totals {
            deliveries: self.rate(&Meters::Deliveries),
            messages: self.rate(&Meters::Messages),
            duplicates: self.rate(&Meters::AllDuplicates),
            recovered: self.rate(&Meters::Recovered),
            conflicts: whole(self.samples.sum(metric::CONFLICTS)),
            ack_failures: whole(self.samples.sum(metric::ACK_FAILURES)),
            stale_changes: whole(self.samples.sum(metric::STALE_CHANGES)),
            db_errors: whole(self.samples.sum(metric::DB_ERRORS)),
        }
    }

    fn sources(&self) -> Vec<SourceStatus> {
        let redelivered = self
            .samples
            .sum_by(metric::DELIVERIES, ["source", "redelivered"]);
        let source = |planned: &PlannedSource| {
            let value = |metric| whole(self.value(metric, "source", &planned.name));
            let flag = [planned.name.clone(), "true".to_owned()];
            SourceStatus {
                name: planned.name.clone(),
                kind: planned.kind.clone(),
                detail: planned.detail.clone(),
                connected: value(metric::SOURCE_CONNECTED) > 0,
                paused: self.why_paused(&planned.name),
                deliveries: self.rate(&Meters::Source(planned.name.clone())),
                redelivered: redelivered.get(&flag).copied().map_or(0, whole),
                lag: (planned.kind == "kafka").then(|| value(metric::KAFKA_LAG)),
                reconnects: value(metric::SOURCE_RECONNECTS),
                ack_failures: value(metric::ACK_FAILURES),
                last_error: None,
            }
        };
        self.plan.sources.iter().map(source).collect()
    }

    /// What was said about a source: that it is paused, or that it is in the way.
    fn why_paused(&self, source: &str) -> Option<String> {
        let in_the_way = || self.not_ready.get(&format!("source {source}"));
        self.paused.get(source).or_else(in_the_way).cloned()
    }

    fn routes(&self) -> Vec<RouteStatus> {
        let route = |planned: &PlannedRoute| {
            let mine = |count: &&Count| count.route.as_deref() == Some(&planned.name);
            let rows = |state: StateName| {
                let counts = self.inbox.iter().filter(mine);
                let of_state = counts.filter(|count| count.state == state);
                of_state.map(|count| count.rows).sum()
            };
            let open =
                |count: &&Count| matches!(count.state, StateName::Waiting | StateName::Handed);
            let ages = self.inbox.iter().filter(mine).filter(open);
            RouteStatus {
                name: planned.name.clone(),
                source: planned.source.clone(),
                engine: planned.engine.clone(),
                messages: self.rate(&Meters::Route(planned.name.clone())),
                through: self.rate(&Meters::Through(planned.name.clone())),
                duplicates: self.rate(&Meters::Duplicates(planned.name.clone())),
                conflicts: whole(self.value(metric::CONFLICTS, "route", &planned.name)),
                waiting: rows(StateName::Waiting),
                handed: rows(StateName::Handed),
                done: rows(StateName::Done),
                dead: rows(StateName::Dead),
                oldest_age_seconds: ages.map(|c| c.oldest_age_seconds).fold(0.0, f64::max),
            }
        };
        self.plan.routes.iter().map(route).collect()
    }

    fn engines(&self) -> Vec<EngineStatus> {
        let engine = |planned: &PlannedEngine| {
            let said = self.engines.get(&planned.name).cloned().unwrap_or_default();
            EngineStatus {
                name: planned.name.clone(),
                kind: planned.kind.clone(),
                detail: planned.detail.clone(),
                up: self.value(metric::ENGINE_UP, "engine", &planned.name) > 0.0,
                backlog: said.backlog,
                max_backlog: planned.max_backlog,
                blocked: said.blocked,
                blocked_details: said.blocked_details,
                confirmed: self.rate(&Meters::Confirmed(planned.name.clone())),
            }
        };
        self.plan.engines.iter().map(engine).collect()
    }

    fn duplicates(&self) -> Vec<DuplicateStatus> {
        let duplicate = |cause: DuplicateCause| {
            let meter = self.meters.get(&Meters::Cause(cause.as_str().to_owned()));
            DuplicateStatus {
                cause,
                total: meter.map_or(0, |meter| meter.rate().total),
                recent: meter.map_or(0, Meter::grown),
            }
        };
        DuplicateCause::ALL.into_iter().map(duplicate).collect()
    }
}
