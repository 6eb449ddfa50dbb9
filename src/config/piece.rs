//! Makes a part's own config type of a piece of the tree, and reports every mistake in it at once.
//!
//! serde stops at the first error. So each error is recorded with the place of its node, the node is
//! replaced by a [`Stand`]-in, and the piece is tried again, until it succeeds or nothing is left to
//! replace. Invariant: what was replaced once is never reported again, and every round replaces something.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::de::DeserializeOwned;

use super::failure::{At, Failure, Kind, Place, instead};
use super::mistake::Mistake;
use super::node::{Key, Node, Value};
use super::walk::Walk;

/// What one piece of the file became.
pub struct Piece<T> {
    /// `None`: its mistakes leave nothing that could be used.
    pub config: Option<T>,
    /// Where something was replaced; nothing that is said about these places would be worth reading.
    pub replaced: Vec<Range<usize>>,
}

/// Deserialises the node, and adds its mistakes.
pub fn piece<T: DeserializeOwned>(
    header: &Range<usize>,
    node: &Node,
    mistakes: &mut Vec<Mistake>,
) -> Piece<T> {
    let repair = Repair::default();
    let config = loop {
        let walk = Walk {
            node,
            header,
            key: "",
            from_file: false,
            in_secrets: false,
            repair: &repair,
        };
        match T::deserialize(walk) {
            Ok(config) => break Some(config),
            Err(failure) => {
                if !repair.learn(failure) {
                    break None;
                }
            }
        }
    };
    mistakes.append(&mut repair.mistakes.borrow_mut());
    Piece {
        config,
        replaced: repair.replaced.into_inner(),
    }
}

/// What stands in for a node whose value is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// Whatever the type asks for, see [`StandIn`].
    Anything,
    /// Nothing: as if it were not there.
    Nothing,
}

/// What was learnt from the failures so far.
#[derive(Default)]
pub struct Repair {
    mistakes: RefCell<Vec<Mistake>>,
    stands: RefCell<BTreeMap<Place, Stand>>,
    missing: RefCell<BTreeSet<(Place, &'static str)>>,
    refused: RefCell<BTreeSet<usize>>,
    replaced: RefCell<Vec<Range<usize>>>,
}

impl Repair {
    /// What stands in for this node, if anything does.
    pub fn stand(&self, node: &Node) -> Option<Stand> {
        let stand = self.stands.borrow().get(&std::ptr::from_ref(node)).copied();
        stand.or(matches!(node.value, Value::Unknown).then_some(Stand::Anything))
    }

    /// The fields that the table does not have and that are to be made up.
    pub fn made_up(&self, table: &Node) -> Vec<&'static str> {
        let missing = self.missing.borrow();
        let table = std::ptr::from_ref(table);
        let of_table = missing.iter().filter(|(place, _)| *place == table);
        of_table.map(|(_, field)| *field).collect()
    }

    /// Records the failure, and arranges that the next round goes past it; `false` when it cannot.
    fn learn(&self, failure: Failure) -> bool {
        let Some(at) = failure.at else { return false };
        match (failure.kind, at.stand) {
            (Kind::Missing(field), _) => {
                let new = self.missing.borrow_mut().insert((at.place, field));
                // A key that is there has been reported, and its stand-in was of no use.
                if new && !at.keys.iter().any(|key| key == field) {
                    self.report(&at, &Kind::Missing(field));
                }
                new
            }
            (Kind::NoStandIn, None) | (_, Some(Stand::Nothing)) => false,
            (_, Some(Stand::Anything)) => {
                self.stands.borrow_mut().insert(at.place, Stand::Nothing);
                true
            }
            (kind, None) => {
                self.stands.borrow_mut().insert(at.place, Stand::Anything);
                self.report(&at, &kind);
                true
            }
        }
    }

    fn report(&self, at: &At, kind: &Kind) {
        self.replaced.borrow_mut().push(at.point.clone());
        self.mistakes.borrow_mut().push(at.mistake(kind));
    }

    /// `password` and `password_file`.
    pub fn refuse_second(&self, key: &Key, secret: &str) {
        self.refuse(
            key,
            format!("`{}` and `{secret}` exclude each other", key.name),
            None,
        );
    }

    /// A key that the type does not have; it is left out, and the rest goes on.
    pub fn refuse_unknown(&self, key: &Key, expected: &[&str]) {
        let message = format!("unknown key `{}`", key.name);
        self.refuse(key, message, Some(instead(&key.name, expected)));
    }

    /// Every round meets the key again.
    fn refuse(&self, key: &Key, message: String, help: Option<String>) {
        if self.refused.borrow_mut().insert(key.span.start) {
            self.replaced.borrow_mut().push(key.span.clone());
            self.mistakes.borrow_mut().push(Mistake {
                help,
                ..Mistake::error(key.span.clone(), message)
            });
        }
    }
}
