//! `RabbitMQ`: a classic or quorum queue, over AMQP 0-9-1.
//!
//! Every open makes a connection, a channel and a consumer of its own, and so a new incarnation with a
//! tracker of its own. The client's automatic recovery stays off: it would begin delivery tags at 1 again
//! on the same stream without a word, and the tracker would acknowledge what is not finished.
//! Nothing is rejected and nothing is requeued one by one: a stream that ends gives everything back.

mod config;
mod envelope;
mod management;
mod prefetch;
mod socket;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use async_trait::async_trait;
use lapin::options::{BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::{FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, Queue};

pub use config::{Argument, Declare, QueueType, RabbitmqConfig, RabbitmqTls};

use crate::finding::Finding;
use crate::source::{Source, SourceError, Stream};
use prefetch::Prefetch;
use socket::Socket;
use stream::{Opened, RabbitmqStream};

/// A configured queue.
#[derive(Debug)]
pub struct Rabbitmq {
    name: Arc<str>,
    config: RabbitmqConfig,
    ordered: bool,
    /// How our connections are called in the broker's own tools.
    client_name: String,
    /// Which of the URIs the next attempt takes; moves on after every failure and every lost stream.
    turn: AtomicUsize,
    incarnations: AtomicU64,
    prefetch: Arc<Prefetch>,
}

/// A connection with one channel.
pub struct Connected {
    pub connection: Connection,
    socket: Socket,
    pub channel: Channel,
    /// The broker's address as it may be printed.
    pub address: String,
}

impl Rabbitmq {
    /// `client_name` names this process; the connection is called by it and the source's name.
    pub fn new(name: Arc<str>, config: RabbitmqConfig, ordered: bool, client_name: &str) -> Self {
        Self {
            client_name: format!("{client_name} {name}"),
            name,
            prefetch: Arc::new(Prefetch::new(
                config.prefetch_count.get(),
                config.prefetch.bytes(),
            )),
            config,
            ordered,
            turn: AtomicUsize::new(0),
            incarnations: AtomicU64::new(0),
        }
    }

    fn uri(&self) -> Result<AMQPUri, SourceError> {
        let uris = &self.config.uris;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let none = || SourceError::new("no URI is configured").needs_operator();
        let uri = uris.get(turn.checked_rem(uris.len()).ok_or_else(none)?);
        let mut uri = config::parse(uri.ok_or_else(none)?)
            .map_err(|what| SourceError::new(what).needs_operator())?;
        let heartbeat = self.config.heartbeat.0.as_secs();
        uri.query.heartbeat = Some(u16::try_from(heartbeat).unwrap_or(u16::MAX));
        Ok(uri)
    }

    /// Connects to the URI whose turn it is. The next call takes the next one.
    pub async fn connect(&self) -> Result<Connected, SourceError> {
        let uri = self.uri()?;
        let address = config::address(&uri);
        let tls = self.config.tls.load().await.map_err(|(path, cause)| {
            SourceError::new(format!("cannot read {}", path.display()))
                .because(cause)
                .needs_operator()
        })?;
        let properties = ConnectionProperties::default()
            .with_connection_name(self.client_name.as_str().into())
            .with_client_property("product".into(), "sluice".into());
        let socket = Socket::default();
        let connecting = async {
            let connection = socket.connect(uri, properties, tls).await?;
            let channel = connection.create_channel().await?;
            Ok((connection, channel))
        };
        let error = match tokio::time::timeout(self.config.connect_timeout.0, connecting).await {
            Ok(Ok((connection, channel))) => {
                return Ok(Connected {
                    connection,
                    socket,
                    channel,
                    address,
                });
            }
            Ok(Err(cause)) => address_error("cannot connect", &address, cause),
            Err(_) => self.no_answer(&address),
        };
        // The client's thread would wait for the broker for ever.
        socket.cut();
        Err(error)
    }

    fn no_answer(&self, address: &str) -> SourceError {
        let limit = self.config.connect_timeout;
        SourceError::new(format!("{address} did not answer within {limit}"))
    }

    async fn consume(&self, channel: &Channel) -> Result<lapin::Consumer, lapin::Error> {
        if let Some(declare) = &self.config.declare {
            let options = QueueDeclareOptions {
                durable: declare.durable,
                ..QueueDeclareOptions::default()
            };
            channel
                .queue_declare(self.queue()?, options, declare.table())
                .await?;
        }
        // A limit set after the consumer stands would not count for it.
        let qos = BasicQosOptions::default();
        channel.basic_qos(self.prefetch.count(), qos).await?;
        channel
            .basic_consume(
                self.queue()?,
                short(&self.config.consumer_tag)?,
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
    }

    fn queue(&self) -> Result<ShortString, lapin::Error> {
        short(&self.config.queue)
    }

    /// What AMQP does not tell.
    async fn look_further(&self, vhost: &str) -> Vec<Finding> {
        let queue = &self.config.queue;
        if let Some(url) = &self.config.management_url {
            return management::look(url, vhost, queue, self.ordered).await;
        }
        let mut findings = vec![Finding::info(
            "AMQP does not tell a queue's type, delivery limit and other arguments: \
             set `management_url` to have them checked",
        )];
        if self.ordered {
            findings.push(Finding::warning(format!(
                "a route keeps order on queue {queue:?}: it must have x-single-active-consumer = true, \
                 or its messages are spread over several consumers"
            )));
        }
        findings
    }

    async fn look(&self, channel: &Channel) -> Result<Queue, lapin::Error> {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare(self.queue()?, options, FieldTable::default())
            .await
    }
}

#[async_trait]
impl Source for Rabbitmq {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn ordered(&self) -> bool {
        self.ordered
    }

    async fn open(&self) -> Result<Box<dyn Stream>, SourceError> {
        let Connected {
            connection,
            socket,
            channel,
            address,
        } = self.connect().await?;
        let limit = self.config.connect_timeout;
        let consuming = tokio::time::timeout(limit.0, self.consume(&channel)).await;
        let Ok(consumer) = consuming else {
            socket.cut();
            return Err(self.no_answer(&address));
        };
        let consumer = consumer.map_err(|cause| {
            let what = format!("cannot consume queue {:?}", self.config.queue);
            delivery_error(&what, &address, cause)
        })?;
        let incarnation = self.incarnations.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(RabbitmqStream::new(Opened {
            source: Arc::clone(&self.name),
            queue: self.config.queue.clone(),
            address,
            ordered: self.ordered,
            delivery_limit: self.config.delivery_limit,
            incarnation,
            prefetch: Arc::clone(&self.prefetch),
            connection,
            socket,
            channel,
            consumer,
        })))
    }

    async fn inspect(&self) -> Result<Vec<Finding>, SourceError> {
        let Connected {
            connection,
            channel,
            address,
            ..
        } = self.connect().await?;
        let vhost = connection.status().vhost().to_string();
        let queue = self.look(&channel).await.map_err(|cause| {
            let what = format!("cannot look at queue {:?}", self.config.queue);
            address_error(&what, &address, cause)
        })?;
        let mut findings = vec![Finding::info(format!(
            "{address}: queue {:?} holds {} messages ready and has {} consumers",
            self.config.queue,
            queue.message_count(),
            queue.consumer_count()
        ))];
        findings.push(Finding::info(format!(
            "at most {} deliveries are in memory, and about {} (prefetch_count, prefetch)",
            self.config.prefetch_count, self.config.prefetch
        )));
        findings.extend(self.look_further(&vhost).await);
        if let Err(cause) = connection.close(200, "done".into()).await {
            tracing::debug!(source = &*self.name, %cause, "the connection was gone already");
        }
        Ok(findings)
    }
}

fn short(text: &str) -> Result<ShortString, lapin::Error> {
    ShortString::try_new(text).map_err(|cause| std::io::Error::other(cause).into())
}

/// An error of the client at an address, and whether waiting alone can mend it.
fn address_error(what: &str, address: &str, cause: lapin::Error) -> SourceError {
    let needs_operator = needs_operator(&cause);
    let mut error = SourceError::new(format!("{what} at {address}")).because(cause);
    error.needs_operator = needs_operator;
    error
}

/// The same once deliveries may come: what cannot be parsed now is one of them. (While connecting it is whoever
/// answers in the broker's place.)
fn delivery_error(what: &str, address: &str, cause: lapin::Error) -> SourceError {
    let unreadable = matches!(cause.kind(), ErrorKind::ParsingError(_));
    let mut error = address_error(what, address, cause);
    if unreadable {
        // The client gives up the connection, and the broker would send the same delivery again.
        error.what.push_str(
            ": a delivery's property or header name is not UTF-8; take it out of the queue",
        );
        error.unreadable = true;
    }
    error
}

fn needs_operator(cause: &lapin::Error) -> bool {
    let error = match cause.kind() {
        ErrorKind::ProtocolError(error) => error,
        ErrorKind::AuthProviderError(_) | ErrorKind::ParsingError(_) => return true,
        _ => return false,
    };
    let says = |words| error.get_message().as_str().contains(words);
    match error.kind() {
        // A durable queue whose node is down answers 404, too, and comes back with its node.
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => !says("down or inaccessible"),
        // The queue has another shape than `declare` says. The same code ends a channel that held a
        // delivery for longer than the broker's `consumer_timeout`.
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => !says("timed out"),
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)
        | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED | AMQPHardError::INVALIDPATH) => true,
        AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_) => false,
    }
}
