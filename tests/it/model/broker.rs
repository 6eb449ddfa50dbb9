//! The broker, its streams, and the one small piece that says how far may be acknowledged.

use std::collections::BTreeSet;

use super::{Action, Key, NodeId, Protocol, State, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerKind {
    /// An AMQP queue: nodes compete, each stream counts its tags from 1, an ack removes what it names.
    Queue,
    /// A Kafka partition: one node at a time, tags are offsets, an ack moves the group's position.
    Log,
}

/// Where each delivery stands, by its place in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Broker {
    pub places: Vec<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Ready,
    Unacked,
    Acked,
}

/// A connection's channel, or the assignment of the partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream {
    next_tag: u8,
    /// Tag and place of what the broker gave on this stream and has no ack for.
    unacked: Vec<(u8, usize)>,
}

/// What is finished of a stream, and how far it was acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tracker {
    acked: u8,
    finished: BTreeSet<u8>,
}

/// A delivery in a node's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Delivery {
    pub key: Key,
    tag: u8,
    /// The stream that it came on is gone.
    stream_gone: bool,
}

impl Broker {
    pub fn holding(deliveries: usize) -> Self {
        Self {
            places: vec![Place::Ready; deliveries],
        }
    }

    fn head(&self) -> Option<usize> {
        self.places.iter().position(|place| *place == Place::Ready)
    }

    fn group_position(&self) -> u8 {
        u8::try_from(
            self.places
                .iter()
                .filter(|place| **place == Place::Acked)
                .count(),
        )
        .expect("a queue of a model is short")
    }
}

impl Tracker {
    pub fn finish(&mut self, protocol: &Protocol, delivery: Delivery) {
        if !delivery.stream_gone || !protocol.tracker_per_stream {
            self.finished.insert(delivery.tag);
        }
    }

    /// The last tag that may be acknowledged with all before it, if that is news.
    fn finished_to(&self, protocol: &Protocol) -> Option<u8> {
        let mut to = self.acked;
        if protocol.ack_prefix_only {
            while self.finished.contains(&(to + 1)) {
                to += 1;
            }
        } else {
            to = self.finished.last().copied().unwrap_or(to);
        }
        (to > self.acked).then_some(to)
    }
}

impl State {
    pub fn broker_progress(&self, world: &World, actions: &mut Vec<Action>) {
        let partition_is_free = self.nodes.iter().all(|node| node.stream.is_none());
        for (id, node) in self.nodes.iter().enumerate() {
            match &node.stream {
                None if world.scenario.broker == BrokerKind::Queue || partition_is_free => {
                    actions.push(Action::Connect(id));
                }
                Some(_) if self.broker.head().is_some() => actions.push(Action::Deliver(id)),
                _ => {}
            }
            if node.stream.is_some() && node.tracker.finished_to(&world.protocol).is_some() {
                actions.push(Action::Ack(id));
            }
        }
    }

    pub fn broker_adversity(&self, actions: &mut Vec<Action>) {
        if self.left.connection_losses > 0 {
            let connected = |id: &NodeId| self.nodes[*id].stream.is_some();
            actions.extend((0..2).filter(connected).map(Action::LoseConnection));
        }
    }

    /// A new stream: a channel, or the assignment of the partition.
    pub fn connect(&mut self, world: &World, node: NodeId) {
        let first_tag = match world.scenario.broker {
            BrokerKind::Queue => 1,
            BrokerKind::Log => self.broker.group_position() + 1,
        };
        let node = &mut self.nodes[node];
        node.stream = Some(Stream {
            next_tag: first_tag,
            unacked: Vec::new(),
        });
        if world.protocol.tracker_per_stream {
            node.tracker = Tracker {
                acked: first_tag - 1,
                finished: BTreeSet::new(),
            };
        }
    }

    /// The broker gives its oldest ready delivery, redelivered ones in their old place.
    pub fn deliver(&mut self, world: &World, node: NodeId) {
        let place = self.broker.head().expect("something is ready");
        self.broker.places[place] = Place::Unacked;
        let node = &mut self.nodes[node];
        let stream = node.stream.as_mut().expect("the node is connected");
        let delivery = Delivery {
            key: world.scenario.queue[place],
            tag: stream.next_tag,
            stream_gone: false,
        };
        stream.unacked.push((stream.next_tag, place));
        stream.next_tag += 1;
        node.received.push(delivery);
        if !world.protocol.ack_after_commit {
            node.tracker.finish(&world.protocol, delivery);
        }
    }

    /// Acknowledges, with `multiple`, everything up to a tag.
    pub fn ack(&mut self, world: &World, node: NodeId) {
        let node = &mut self.nodes[node];
        let to = node
            .tracker
            .finished_to(&world.protocol)
            .expect("something is finished");
        node.tracker.acked = to;
        node.tracker.finished.retain(|tag| *tag > to);
        let stream = node.stream.as_mut().expect("the node is connected");
        stream.unacked.retain(|(tag, place)| {
            let acked = *tag <= to;
            if acked {
                self.broker.places[*place] = Place::Acked;
            }
            !acked
        });
    }

    /// The stream ends, or the partition is revoked. What was not acknowledged will come again;
    /// batches under way are finished, but have nobody to tell.
    pub fn lose_connection(&mut self, node: NodeId) {
        self.left.connection_losses -= 1;
        self.end_stream(node);
        let node = &mut self.nodes[node];
        node.received.clear();
        for delivery in node
            .batches
            .iter_mut()
            .flat_map(|batch| &mut batch.deliveries)
        {
            delivery.stream_gone = true;
        }
    }

    /// The broker takes back what the node has not acknowledged.
    pub fn end_stream(&mut self, node: NodeId) {
        let stream = self.nodes[node].stream.take();
        for (_, place) in stream.map(|stream| stream.unacked).unwrap_or_default() {
            self.broker.places[place] = Place::Ready;
        }
    }
}
