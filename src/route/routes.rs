//! The routes of all sources: which one takes a delivery, and what it makes of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Route;
use crate::mapping::Subject;
use crate::message::{DeadReason, Envelope, Message, Undecodable};
use crate::source::OnUnrouted;

/// What the routes of a source make of a delivery.
#[derive(Debug)]
pub enum Taken {
    /// A route took it, and its mapping made a message of it.
    Message(Arc<Route>, Box<Message>),
    /// A route took it, and its mapping cannot use it.
    Unusable {
        route: Arc<Route>,
        order_key: Option<String>,
        undecodable: Undecodable,
    },
    /// No route can be told, or none takes it, and that is an error.
    Dead(Undecodable),
    /// No route takes it, and the source says to ignore that.
    Ignored,
}

/// All routes, by source.
#[derive(Debug)]
pub struct Routes {
    by_source: BTreeMap<String, (OnUnrouted, Vec<Arc<Route>>)>,
    /// What a compressed payload may become, in bytes.
    content_limit: usize,
}

impl Routes {
    /// `sources`: every source with its `on_unrouted`; `routes` in the order of the file.
    pub fn new(
        sources: impl IntoIterator<Item = (String, OnUnrouted)>,
        routes: impl IntoIterator<Item = Route>,
    ) -> Self {
        let mut by_source: BTreeMap<_, _> = sources
            .into_iter()
            .map(|(source, on_unrouted)| (source, (on_unrouted, Vec::new())))
            .collect();
        for route in routes {
            by_source
                .entry(route.source.clone())
                .or_default()
                .1
                .push(Arc::new(route));
        }
        Self {
            by_source,
            content_limit: usize::MAX,
        }
    }

    /// Bounds what a compressed payload may become, in bytes.
    #[must_use]
    pub fn with_content_limit(self, content_limit: usize) -> Self {
        Self {
            content_limit,
            ..self
        }
    }

    /// A delivery, to be decoded.
    pub fn subject<'a>(&self, payload: &'a [u8], envelope: &'a Envelope) -> Subject<'a> {
        Subject::new(payload, envelope).bounded(self.content_limit)
    }

    /// Which route takes the delivery, and what it makes of it.
    pub fn decode(&self, source: &str, subject: &Subject<'_>) -> Taken {
        let Some((on_unrouted, routes)) = self.by_source.get(source) else {
            return Taken::Dead(unrouted(source));
        };
        for route in routes {
            match route.takes(subject) {
                // Which route it is for cannot be told: dead, whatever `on_unrouted` says.
                Err(undecodable) => return Taken::Dead(undecodable),
                Ok(false) => {}
                Ok(true) => {
                    let route = Arc::clone(route);
                    return match route.decode(subject) {
                        Ok(message) => Taken::Message(route, Box::new(message)),
                        Err(undecodable) => Taken::Unusable {
                            order_key: route.order_key(subject),
                            route,
                            undecodable,
                        },
                    };
                }
            }
        }
        match on_unrouted {
            OnUnrouted::Ignore => Taken::Ignored,
            OnUnrouted::Dead => Taken::Dead(unrouted(source)),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.by_source.values().flat_map(|(_, routes)| routes)
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Route>> {
        self.iter().find(|route| route.name == name)
    }

    /// Whether a route of this source asks for order.
    pub fn ordered(&self, source: &str) -> bool {
        self.iter()
            .any(|route| route.source == source && route.order.is_some())
    }

    /// The order scopes in which a dead row blocks its key.
    pub fn blocking_scopes(&self) -> Vec<String> {
        let mut scopes: Vec<_> = self
            .iter()
            .filter_map(|route| route.order.as_ref())
            .filter(|order| order.dead_blocks)
            .map(|order| order.scope.clone())
            .collect();
        scopes.sort();
        scopes.dedup();
        scopes
    }
}

fn unrouted(source: &str) -> Undecodable {
    Undecodable {
        reason: DeadReason::Unrouted,
        detail: format!("no route of source {source:?} takes it"),
    }
}
