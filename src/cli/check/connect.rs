//! `sluice check --connect`: opens everything that the configuration names, and says what is there.
//!
//! Nothing is consumed and nothing is changed.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::Part;
use crate::bridge::parts::{self, Engines, Seen};
use crate::cli::{Failure, on_inbox};
use crate::config::Config;
use crate::finding::Finding;
use crate::inbox::{DbError, Inbox, NodeIdentity, SchemaStatus};
use crate::route::Routes;
use crate::telemetry;

/// A part that does not answer in this time is an error.
const PATIENCE: Duration = Duration::from_secs(20);

/// One part of the configuration after the other: the inbox, engines, routes, sources.
pub async fn connect(config: &Config) -> Result<Vec<Part>, Failure> {
    let routes = parts::routes(config);
    let mut found = database(config, &routes).await?;
    let identity = NodeIdentity {
        incarnation: Uuid::now_v7(),
        name: config.node.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    for source in parts::sources(config, &routes, &identity, None)? {
        let name = format!("source {}", source.name());
        let source = Arc::clone(&source);
        let inspected = patiently(async move {
            let found = source.inspect().await;
            found.map_err(|error| telemetry::in_full(&error))
        });
        let findings = findings(inspected.await);
        found.push(Part { name, findings });
    }
    Ok(found)
}

/// The inbox, the engines that share its database, and what their models mean for the routes.
async fn database(config: &Config, routes: &Routes) -> Result<Vec<Part>, Failure> {
    on_inbox!(config, |inbox| Box::pin(look(&inbox, config, routes)).await)
}

async fn look<I>(inbox: &I, config: &Config, routes: &Routes) -> Result<Vec<Part>, Failure>
where
    I: Inbox + Engines,
{
    let told = |error: DbError| error.to_string();
    let inspected = patiently(async { inbox.inspect().await.map_err(told) }).await;
    let answers = inspected.is_ok();
    let mut of_inbox = findings(inspected);
    if answers {
        let status = patiently(async { inbox.schema_status().await.map_err(told) }).await;
        of_inbox.push(status.map_or_else(Finding::error, |status| tables(&status)));
    }
    let mut found = vec![Part {
        name: "inbox".to_owned(),
        findings: of_inbox,
    }];
    let mut of_routes = Vec::new();
    for engine in inbox.engines(config)? {
        let name = format!("engine {}", engine.name());
        if !answers {
            let findings = vec![Finding::warning(
                "not looked at: it shares the inbox's database, which cannot be used",
            )];
            found.push(Part { name, findings });
            continue;
        }
        let prospects = parts::prospects(config, routes, engine.name());
        let asked = patiently(async {
            let seen = parts::look_at(inbox, &*engine, &prospects).await;
            seen.map_err(told)
        });
        let (findings, foreseen) = match asked.await {
            Ok(Seen { engine, routes }) => (engine, routes),
            Err(what) => (vec![Finding::error(what)], Vec::new()),
        };
        // The daemon logs these lines, where they must say whose they are.
        let prefix = format!("{name}: ");
        let findings = findings.into_iter().map(|finding| Finding {
            text: match finding.text.strip_prefix(&prefix) {
                Some(text) => text.to_owned(),
                None => finding.text,
            },
            ..finding
        });
        found.push(Part {
            findings: findings.collect(),
            name,
        });
        of_routes.extend(foreseen);
    }
    // In the order of the file.
    for (route, _) in &config.routes {
        let findings: Vec<Finding> = of_routes
            .iter()
            .filter(|(of, _)| of == route)
            .map(|(_, finding)| finding.clone())
            .collect();
        if !findings.is_empty() {
            let name = format!("route {route}");
            found.push(Part { name, findings });
        }
    }
    Ok(found)
}

fn tables(status: &SchemaStatus) -> Finding {
    match status.obstacle() {
        None => Finding::info("Sluice's tables are up to date"),
        Some(obstacle) => Finding::error(obstacle),
    }
}

/// What was found, or why nothing was.
fn findings(found: Result<Vec<Finding>, String>) -> Vec<Finding> {
    found.unwrap_or_else(|what| vec![Finding::error(what)])
}

async fn patiently<T>(look: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let silence = |_| Err(format!("no answer within {} s", PATIENCE.as_secs()));
    let looked = tokio::time::timeout(PATIENCE, look).await;
    looked.unwrap_or_else(silence)
}
