//! A status as the page words it: every number is text already, so that the template only places it.

mod rows;

use rows::{Bar, Open, Segment, StateRows};

use super::format::{self, Spark};
use super::status::{
    EngineStatus, Problem, Rate, RouteStatus, Severity, SourceStatus, Status, gone, lives,
};
use crate::inbox::{Count, Node, StateName};

/// Fewer would hide what happened; more nobody reads.
const PROBLEMS: usize = 12;

/// A counter's rate, its total and its curve.
pub(super) struct Flow {
    pub(super) per_second: String,
    pub(super) total: String,
    pub(super) spark: Spark,
}

impl Flow {
    fn of(rate: &Rate) -> Self {
        Self {
            per_second: format::rate(rate.per_second),
            total: format::count(rate.total),
            spark: Spark::of(&rate.history),
        }
    }
}

/// The whole page.
pub(super) struct View {
    pub(super) node: String,
    pub(super) version: String,
    pub(super) uptime: String,
    pub(super) pill: (&'static str, &'static str),
    /// What is in the way: part and reason.
    pub(super) reasons: Vec<(String, String)>,
    pub(super) deliveries: Flow,
    pub(super) duplicates: Flow,
    pub(super) conflicts: String,
    pub(super) open: Open,
    pub(super) states: Vec<StateRows>,
    pub(super) segments: Vec<Segment>,
    pub(super) sources: Vec<SourceView>,
    pub(super) routes: Vec<RouteView>,
    pub(super) engines: Vec<EngineView>,
    pub(super) causes: Vec<Bar>,
    pub(super) nodes: Vec<NodeView>,
    pub(super) problems: Vec<ProblemView>,
    pub(super) sweeper: Vec<(&'static str, String)>,
}

pub(super) struct SourceView {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) detail: String,
    /// The word beside the dot, and its class.
    pub(super) state: (&'static str, &'static str),
    pub(super) paused: Option<String>,
    pub(super) flow: Flow,
    /// Name, number, and whether it deserves a look.
    pub(super) facts: Vec<(&'static str, String, bool)>,
    pub(super) last_error: Option<ProblemView>,
}

pub(super) struct RouteView {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) messages: Flow,
    pub(super) through: String,
    pub(super) duplicates: String,
    pub(super) waiting: String,
    pub(super) why: String,
    pub(super) handed: String,
    pub(super) dead: String,
    pub(super) has_dead: bool,
    pub(super) oldest: String,
}

pub(super) struct EngineView {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) detail: String,
    pub(super) state: (&'static str, &'static str),
    pub(super) backlog: String,
    pub(super) allowed: Option<String>,
    pub(super) width: String,
    pub(super) is_full: bool,
    pub(super) blocked: Option<String>,
    pub(super) blocked_details: Vec<String>,
    pub(super) confirmed: Flow,
}

pub(super) struct NodeView {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) is_this: bool,
    pub(super) is_gone: bool,
    pub(super) up: String,
    pub(super) seen: String,
    pub(super) duplicates: String,
}

pub(super) struct ProblemView {
    pub(super) class: &'static str,
    pub(super) part: String,
    pub(super) subject: String,
    pub(super) text: String,
    pub(super) times: Option<String>,
    pub(super) ago: String,
}

impl View {
    pub(super) fn of(status: &Status) -> Self {
        let totals = &status.totals;
        let (by_state, segments) = rows::inbox(&status.inbox);
        let problems = status.problems.iter().take(PROBLEMS);
        let reasons = status.readiness.reasons.iter();
        Self {
            node: status.node.name.clone(),
            version: status.node.version.clone(),
            uptime: format::age(seconds(status.node.uptime_seconds)),
            pill: pill(status),
            reasons: reasons
                .map(|reason| (reason.part.clone(), reason.reason.clone()))
                .collect(),
            deliveries: Flow::of(&totals.deliveries),
            duplicates: Flow::of(&totals.duplicates),
            conflicts: format::count(totals.conflicts),
            open: rows::open(&status.inbox),
            states: by_state,
            segments,
            sources: status.sources.iter().map(SourceView::of).collect(),
            routes: status
                .routes
                .iter()
                .map(|route| RouteView::of(route, &status.inbox))
                .collect(),
            engines: status.engines.iter().map(EngineView::of).collect(),
            causes: rows::causes(status),
            nodes: nodes(status),
            problems: problems.map(ProblemView::of).collect(),
            sweeper: vec![
                ("re-driven", format::count(totals.recovered.total)),
                ("stale changes", format::count(totals.stale_changes)),
                ("database errors", format::count(totals.db_errors)),
                ("failed acks", format::count(totals.ack_failures)),
            ],
        }
    }
}

fn pill(status: &Status) -> (&'static str, &'static str) {
    match (status.node.draining, status.readiness.ready) {
        (true, _) => ("stopping", "wait"),
        (false, true) => ("ready", "ok"),
        (false, false) => ("not ready", "bad"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "an age")]
fn seconds(whole: u64) -> f64 {
    whole as f64
}

impl SourceView {
    fn of(source: &SourceStatus) -> Self {
        let state = match (source.connected, &source.paused) {
            (false, _) => ("disconnected", "bad"),
            (true, Some(_)) => ("paused", "wait"),
            (true, None) => ("connected", "ok"),
        };
        let mut facts = vec![("redelivered", format::count(source.redelivered), false)];
        if let Some(lag) = source.lag {
            facts.push(("lag", format::count(lag), false));
        }
        for (name, number) in [
            ("reconnects", source.reconnects),
            ("failed acks", source.ack_failures),
        ] {
            if number > 0 {
                facts.push((name, format::count(number), true));
            }
        }
        Self {
            name: source.name.clone(),
            kind: source.kind.clone(),
            detail: source.detail.clone(),
            state,
            paused: source.paused.clone(),
            flow: Flow::of(&source.deliveries),
            facts,
            last_error: source.last_error.as_ref().map(ProblemView::of),
        }
    }
}

impl RouteView {
    fn of(route: &RouteStatus, inbox: &[Count]) -> Self {
        let mut why: Vec<_> = inbox
            .iter()
            .filter(|count| count.route.as_deref() == Some(&route.name))
            .filter(|count| count.state == StateName::Waiting && count.rows > 0)
            .collect();
        why.sort_by_key(|count| -count.rows);
        let why = why.iter().map(|count| {
            let reason = count.reason.as_deref().unwrap_or_default();
            format!("{} {}", format::rows(count.rows), reason.replace('_', " "))
        });
        Self {
            name: route.name.clone(),
            path: format!("{} → {}", route.source, route.engine),
            messages: Flow::of(&route.messages),
            through: format::rate(route.through.per_second),
            duplicates: format::count(route.duplicates.total),
            waiting: format::rows(route.waiting),
            why: why.collect::<Vec<_>>().join(", "),
            handed: format::rows(route.handed),
            dead: format::rows(route.dead),
            has_dead: route.dead > 0,
            oldest: rows::age_of(route.waiting + route.handed, route.oldest_age_seconds),
        }
    }
}

impl EngineView {
    fn of(engine: &EngineStatus) -> Self {
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let max = engine.max_backlog.unwrap_or_default();
        Self {
            name: engine.name.clone(),
            kind: engine.kind.clone(),
            detail: engine.detail.clone(),
            state: if engine.up {
                ("answers", "ok")
            } else {
                ("does not answer", "bad")
            },
            backlog: format::count(engine.backlog),
            allowed: engine.max_backlog.map(format::count),
            width: format::percent(whole(engine.backlog), whole(max)),
            is_full: max > 0 && engine.backlog >= max,
            blocked: (engine.blocked > 0).then(|| format::count(engine.blocked)),
            blocked_details: engine.blocked_details.clone(),
            confirmed: Flow::of(&engine.confirmed),
        }
    }
}

/// Those that live, and those that are gone and did not come back under their name.
fn nodes(status: &Status) -> Vec<NodeView> {
    let living = status.nodes.iter().filter(|node| lives(node));
    let mut shown: Vec<&Node> = living.chain(gone(&status.nodes)).collect();
    shown.sort_by(|a, b| (&a.name, a.incarnation).cmp(&(&b.name, b.incarnation)));
    let view = |node: &&Node| NodeView {
        name: node.name.clone(),
        version: node.version.clone(),
        is_this: node.incarnation == status.node.incarnation,
        is_gone: !lives(node),
        up: format::age(node.started_seconds_ago),
        seen: format::age(node.seen_seconds_ago),
        duplicates: format::rows(node.duplicates),
    };
    shown.iter().map(view).collect()
}

impl ProblemView {
    fn of(problem: &Problem) -> Self {
        Self {
            class: match problem.severity {
                Severity::Warning => "wait",
                Severity::Error => "bad",
            },
            part: problem.part.clone(),
            subject: problem.subject.clone().unwrap_or_default(),
            text: problem.text.clone(),
            times: (problem.times > 1).then(|| format::count(problem.times)),
            ago: format::age(seconds(problem.seconds_ago)),
        }
    }
}
