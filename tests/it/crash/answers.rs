//! Commits whose answers are lost: the transaction is there, and nobody told the node.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::shop::{Broker, Entrance, LIMIT, Settings, Shop, messages};
use crate::daemon::Daemon;

/// Of this many commits, of whatever transaction, one answer is lost.
const ONE_IN: u32 = 4;
/// Of the buffer of a connection's direction: a statement is shorter.
const ROOM: usize = 1 << 16;
/// After so many losses all answers come through.
const LOSSES: u32 = 25;

/// Stands between a node and its database, and cuts the connection when a commit has been made and
/// before the node hears of it.
struct Proxy {
    port: u16,
    counts: Arc<Counts>,
    _connections: JoinSet<()>,
}

#[derive(Default)]
struct Counts {
    commits: AtomicU32,
    lost: AtomicU32,
}

impl Proxy {
    async fn to(server: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let counts = Arc::new(Counts::default());
        let mut accepting = JoinSet::new();
        let of_all = Arc::clone(&counts);
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((node, _)) = listener.accept().await {
                let (server, counts) = (server.clone(), Arc::clone(&of_all));
                // However a connection ends: the node sees a closed one.
                connections.spawn(async move { carry(node, &server, &counts).await.ok() });
            }
        });
        Proxy {
            port,
            counts,
            _connections: accepting,
        }
    }

    fn lost(&self) -> u32 {
        self.counts.lost.load(Ordering::SeqCst)
    }
}

async fn carry(mut node: TcpStream, server: &str, counts: &Counts) -> io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    let (mut asked, mut answered) = (Vec::with_capacity(ROOM), Vec::with_capacity(ROOM));
    loop {
        tokio::select! {
            read = node.read_buf(&mut asked) => {
                if read? == 0 {
                    return Ok(());
                }
                server.write_all(&asked).await?;
                let commits = holds(&asked, b"COMMIT AND CHAIN");
                asked.clear();
                if commits && counts.lose() {
                    return until_committed(&mut server).await;
                }
            }
            read = server.read_buf(&mut answered) => {
                if read? == 0 {
                    return Ok(());
                }
                node.write_all(&answered).await?;
                answered.clear();
            }
        }
    }
}

/// The tag of a completed COMMIT, as the protocol has it.
async fn until_committed(server: &mut TcpStream) -> io::Result<()> {
    let mut answered = Vec::new();
    while !holds(&answered, b"COMMIT\0") && server.read_buf(&mut answered).await? > 0 {}
    Ok(())
}

/// A statement is sent at once, so it is not cut in two; and if it were, its answer would only come through.
fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

impl Counts {
    /// Whether the answer of this commit is lost.
    fn lose(&self) -> bool {
        let due = self.commits.fetch_add(1, Ordering::SeqCst) % ONE_IN == ONE_IN - 1;
        due && self.lost.fetch_add(1, Ordering::SeqCst) < LOSSES
    }
}

#[tokio::test]
async fn one_effect_per_key_when_the_answers_of_commits_are_lost() {
    let shop = Shop::open().await;
    let queue = Entrance::of(Broker::RabbitMq).await;
    let topic = Entrance::of(Broker::Kafka).await;
    let direct = reqwest::Url::parse(shop.schema.url()).unwrap();
    let address = format!("{}:{}", direct.host_str().unwrap(), direct.port().unwrap());
    let proxy = Proxy::to(address).await;
    let mut through = direct.clone();
    through.set_port(Some(proxy.port)).unwrap();
    through.set_query(Some("sslmode=disable"));
    let entrances = [("queue", &queue), ("topic", &topic)];
    let config = shop.config_at(through.as_str(), &entrances, Settings::default());
    let node = Daemon::start(&config, &[]).await;

    let by_queue = messages(&shop.orders("queue", 8), 5);
    let by_topic = messages(&shop.orders("topic", 8), 6);
    tokio::join!(queue.send(&by_queue), topic.send(&by_topic));
    let sent = [by_queue, by_topic].concat();
    shop.until_done(&sent, LIMIT).await;
    queue.until_drained().await;
    topic.until_drained().await;
    shop.assert_exact(&sent).await;
    assert!(proxy.lost() > 10, "only {} answers were lost", proxy.lost());
    let errors = node.metric("sluice_db_errors_total", &[("class", "outage")]);
    assert!(errors.await > 0.0, "the node heard every answer");
    node.stop().await;
}
