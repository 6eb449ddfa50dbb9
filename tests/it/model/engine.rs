//! The engine and its one process instance. It knows nothing of us but the jobs that it finds.

use std::collections::BTreeMap;

use super::scenario::Way;
use super::{Action, HandOver, State, SubscriptionId, World};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Engine {
    instance_is_alive: bool,
    /// The catchers that wait now, with their `REV_`.
    subscriptions: BTreeMap<SubscriptionId, u8>,
    next_subscription: SubscriptionId,
    /// Our jobs, with the subscription that each was written for.
    pub jobs: BTreeMap<HandOver, SubscriptionId>,
    /// How each hand-over ended: for C the receipt (nothing is written if it never happened), for B
    /// the log of its job. A receipt carries the hand-over, not only the row.
    history: BTreeMap<HandOver, bool>,
    history_is_kept: bool,
    cancelling: Option<Cancelling>,
}

/// A transaction of the engine that has loaded what it will delete: later rows it does not see.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Cancelling {
    catcher: Catcher,
    jobs: Vec<HandOver>,
}

/// A subscription as somebody saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Catcher {
    pub subscription: SubscriptionId,
    revision: u8,
}

/// What the engine's tables say about a hand-over whose job is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    Happened,
    Never,
    /// Nothing is there, and nothing need be there: the history was cleaned up.
    Cleaned,
}

impl Engine {
    pub fn with_one_catcher() -> Self {
        Self {
            instance_is_alive: true,
            subscriptions: BTreeMap::from([(0, 1)]),
            next_subscription: 1,
            jobs: BTreeMap::new(),
            history: BTreeMap::new(),
            history_is_kept: true,
            cancelling: None,
        }
    }

    pub fn catchers(&self) -> impl Iterator<Item = Catcher> {
        let subscriptions = self.subscriptions.iter();
        subscriptions.map(|(subscription, revision)| Catcher {
            subscription: *subscription,
            revision: *revision,
        })
    }

    pub fn is_subscribed(&self, subscription: SubscriptionId) -> bool {
        self.subscriptions.contains_key(&subscription)
    }

    /// `UPDATE … SET REV_ = REV_ + 1 WHERE ID_ = … AND REV_ = …`; whether it hit.
    pub fn bump(&mut self, catcher: Catcher) -> bool {
        let revision = self.subscriptions.get_mut(&catcher.subscription);
        let hit = revision.filter(|revision| **revision == catcher.revision);
        hit.map(|revision| *revision += 1).is_some()
    }

    /// Read when the job is gone. For C a missing receipt tells that nothing happened; for B there
    /// is always an entry in the log.
    pub fn evidence_of(&self, way: Way, hand_over: HandOver) -> Evidence {
        match self.history.get(&hand_over) {
            Some(true) => Evidence::Happened,
            Some(false) => Evidence::Never,
            None if self.history_is_kept && way == Way::ByName => Evidence::Never,
            None => Evidence::Cleaned,
        }
    }

    pub fn has_lost_history(&self) -> bool {
        !self.history_is_kept
    }

    fn delete_job(&mut self, job: HandOver) {
        if self.jobs.remove(&job).is_some() {
            self.history.insert(job, false);
        }
    }

    fn jobs_on(&self, subscription: SubscriptionId) -> Vec<HandOver> {
        let jobs = self.jobs.iter().filter(|(_, on)| **on == subscription);
        jobs.map(|(job, _)| *job).collect()
    }
}

impl State {
    pub fn engine_progress(&self, actions: &mut Vec<Action>) {
        actions.extend(self.engine.jobs.keys().map(|job| Action::RunJob(*job)));
        if self.engine.cancelling.is_some() {
            actions.push(Action::FlushCancel);
        }
    }

    pub fn engine_adversity(&self, world: &World, actions: &mut Vec<Action>) {
        let engine = &self.engine;
        if engine.instance_is_alive {
            let room = engine.subscriptions.len() < world.scenario.tokens;
            if room && self.left.new_subscriptions > 0 {
                actions.push(Action::Subscribe);
            }
            if self.left.cancellations > 0 && engine.cancelling.is_none() {
                actions.extend(
                    engine
                        .subscriptions
                        .keys()
                        .map(|id| Action::BeginCancel(*id)),
                );
            }
            if self.left.instance_deletions > 0 {
                actions.push(Action::DeleteInstance);
            }
        }
        if self.left.history_cleanups > 0 {
            actions.push(Action::CleanUpHistory);
        }
    }

    /// The effect, its evidence and the end of the job, in one transaction of the engine.
    pub fn run_job(&mut self, world: &World, job: HandOver) {
        let target = self.engine.jobs.remove(&job).expect("the job is there");
        match world.way() {
            Way::InCommit => {}
            // The job log says success even where the subscription is not there.
            Way::BySubscription => {
                self.engine.history.insert(job, true);
                if self.engine.is_subscribed(target) {
                    self.consume(target, job);
                }
                for other in self.engine.jobs_on(target) {
                    self.engine.delete_job(other);
                }
            }
            // All that wait now, whichever it was written for; nobody there is a success, too.
            Way::ByName => {
                let waiting: Vec<_> = self.engine.subscriptions.keys().copied().collect();
                for subscription in waiting {
                    self.consume(subscription, job);
                    self.engine.history.insert(job, true);
                }
            }
        }
    }

    fn consume(&mut self, subscription: SubscriptionId, job: HandOver) {
        self.engine.subscriptions.remove(&subscription);
        self.witness.consumed.insert(subscription, job);
        self.effect_of(self.inbox.row(job.row).key);
    }

    /// The process comes to a catcher: it loops back, or a second token arrives.
    pub fn subscribe(&mut self) {
        self.left.new_subscriptions -= 1;
        self.engine
            .subscriptions
            .insert(self.engine.next_subscription, 1);
        self.engine.next_subscription += 1;
    }

    /// A timer, or somebody else's correlation, is about to take the catcher away.
    pub fn begin_cancel(&mut self, subscription: SubscriptionId) {
        self.left.cancellations -= 1;
        let mut catchers = self.engine.catchers();
        let catcher = catchers.find(|catcher| catcher.subscription == subscription);
        let catcher = catcher.expect("the subscription is there");
        drop(catchers);
        let jobs = self.engine.jobs_on(subscription);
        self.engine.cancelling = Some(Cancelling { catcher, jobs });
    }

    /// Deletes what it loaded if the revision is still the same, and else rolls back and may retry.
    pub fn flush_cancel(&mut self) {
        let Some(Cancelling { catcher, jobs }) = self.engine.cancelling.take() else {
            return;
        };
        let revision = self.engine.subscriptions.get(&catcher.subscription);
        if revision != Some(&catcher.revision) {
            self.left.cancellations += 1;
            return;
        }
        self.engine.subscriptions.remove(&catcher.subscription);
        for job in jobs {
            self.engine.delete_job(job);
        }
    }

    /// The instance ends or is deleted: its subscriptions go, and the jobs that target them; jobs by
    /// name stay and will find nobody.
    pub fn delete_instance(&mut self) {
        self.left.instance_deletions -= 1;
        self.engine.instance_is_alive = false;
        for subscription in std::mem::take(&mut self.engine.subscriptions).into_keys() {
            for job in self.engine.jobs_on(subscription) {
                self.engine.delete_job(job);
            }
        }
    }

    /// The history's own retention, or a history level at which evidence lives no longer than the
    /// instance. Not only of ended instances: with the removal time counted from the start, a running
    /// one loses its history too.
    pub fn clean_up_history(&mut self) {
        self.left.history_cleanups -= 1;
        self.engine.history.clear();
        self.engine.history_is_kept = false;
    }
}
