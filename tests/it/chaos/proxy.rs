//! The way between one daemon and one server, which can be cut, slowed down, or swallow what is sent.
//!
//! It carries bytes and knows nothing of what they mean. A swallowed byte is gone, as behind a switch that died:
//! connections that lost one are closed when the way is open again, and those that lost none go on. While it
//! swallows, nobody hears that the other side closed.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Bytes that a direction carries at once.
const ROOM: usize = 1 << 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Open,
    /// Everything comes this much later.
    Slow(Duration),
    Swallows(Lost),
}

/// What does not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    Everything,
    /// What the daemon asks.
    Questions,
    /// What the server answers: it did what it was told, and nobody knows.
    Answers,
}

impl Lost {
    pub const ALL: [Lost; 3] = [Lost::Everything, Lost::Questions, Lost::Answers];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToDaemon,
}

#[derive(Debug, Clone, Copy)]
struct State {
    mode: Mode,
    /// How often everything was cut; a connection of an earlier count ends.
    cuts: u64,
}

impl State {
    fn swallows(self, direction: Direction) -> bool {
        match self.mode {
            Mode::Open | Mode::Slow(_) => false,
            Mode::Swallows(Lost::Everything) => true,
            Mode::Swallows(Lost::Questions) => direction == Direction::ToServer,
            Mode::Swallows(Lost::Answers) => direction == Direction::ToDaemon,
        }
    }
}

/// Closed with this value.
pub struct Link {
    port: u16,
    server: watch::Sender<Option<String>>,
    state: watch::Sender<State>,
    _connections: JoinSet<()>,
}

impl Link {
    /// Leads nowhere yet; who connects is turned away.
    pub async fn open() -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = watch::Sender::new(None);
        let state = watch::Sender::new(State {
            mode: Mode::Open,
            cuts: 0,
        });
        let mut connections = JoinSet::new();
        connections.spawn(accept(listener, server.subscribe(), state.subscribe()));
        Link {
            port,
            server,
            state,
            _connections: connections,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database by this way.
    pub fn instead_of(&self, url: &str) -> String {
        let mut url = reqwest::Url::parse(url).expect("the rig's URLs are URLs");
        url.set_port(Some(self.port)).expect("it has a host");
        url.set_query(Some("sslmode=disable"));
        url.into()
    }

    /// To this server, as `host:port`.
    pub fn lead_to(&self, server: &str) {
        self.server.send_replace(Some(server.to_owned()));
    }

    pub fn be(&self, mode: Mode) {
        self.state.send_modify(|state| state.mode = mode);
    }

    /// Ends all connections that there are.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }
}

async fn accept(
    listener: TcpListener,
    server: watch::Receiver<Option<String>>,
    state: watch::Receiver<State>,
) {
    let mut connections = JoinSet::new();
    while let Ok((daemon, _)) = listener.accept().await {
        let (server, state) = (server.borrow().clone(), state.clone());
        // However a connection ends: both sides see a closed one.
        connections.spawn(async move {
            if let Some(server) = server {
                connect(daemon, &server, state).await.ok();
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn connect(
    daemon: TcpStream,
    server: &str,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    if state.borrow().swallows(Direction::ToServer) {
        // It got as far as the switch.
        until_open(&mut state, Direction::ToServer).await;
        return Ok(());
    }
    let server = TcpStream::connect(server).await?;
    daemon.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let cuts = state.borrow().cuts;
    let ((from_daemon, to_daemon), (from_server, to_server)) =
        (daemon.into_split(), server.into_split());
    let mut until_cut = state.clone();
    tokio::select! {
        _ = until_cut.wait_for(|state| state.cuts != cuts) => Ok(()),
        ended = carry(from_daemon, to_server, Direction::ToServer, state.clone()) => ended,
        ended = carry(from_server, to_daemon, Direction::ToDaemon, state) => ended,
    }
}

/// Returns when the connection is of no more use to anybody.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(ROOM);
    let mut lost = false;
    loop {
        let read = tokio::select! {
            read = from.read_buf(&mut bytes) => Some(read),
            () = until_open(&mut state, direction), if lost => None,
        };
        let now = *state.borrow();
        match read {
            Some(Ok(0) | Err(_)) if now.swallows(direction) => {
                until_open(&mut state, direction).await;
                return Ok(());
            }
            None | Some(Ok(0)) => return Ok(()),
            Some(Err(cause)) => return Err(cause),
            Some(Ok(_)) if now.swallows(direction) => lost = true,
            Some(Ok(_)) => {
                if let Mode::Slow(later) = now.mode {
                    tokio::time::sleep(later).await;
                }
                to.write_all(&bytes).await?;
            }
        }
        bytes.clear();
    }
}

async fn until_open(state: &mut watch::Receiver<State>, direction: Direction) {
    // The link is closed when the sender is gone; then this is, too.
    let _ = state.wait_for(|state| !state.swallows(direction)).await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::{Link, Lost, Mode};

    const LIMIT: Duration = Duration::from_secs(10);

    /// A client and the server's side of its connection, with a link between them.
    async fn pair() -> (Link, TcpStream, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = Link::open().await;
        link.lead_to(&server.local_addr().unwrap().to_string());
        let client = TcpStream::connect(("127.0.0.1", link.port())).await;
        let (accepted, _) = server.accept().await.unwrap();
        (link, client.unwrap(), accepted)
    }

    async fn read(stream: &mut TcpStream) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        let read = tokio::time::timeout(LIMIT, stream.read(&mut bytes)).await;
        // A connection that was reset is as closed as one that ended.
        bytes.truncate(read.expect("it takes too long").unwrap_or(0));
        bytes
    }

    #[tokio::test]
    async fn a_link_carries_both_ways_and_late_when_it_is_slow() {
        let (link, mut client, mut server) = pair().await;
        client.write_all(b"asked").await.unwrap();
        assert_eq!(read(&mut server).await, b"asked");
        let later = Duration::from_millis(50);
        link.be(Mode::Slow(later));
        let begun = std::time::Instant::now();
        server.write_all(b"answered").await.unwrap();
        assert_eq!(read(&mut client).await, b"answered");
        assert!(begun.elapsed() >= later);
    }

    #[tokio::test]
    async fn a_cut_link_ends_its_connections_and_takes_new_ones() {
        let (link, mut client, mut server) = pair().await;
        client.write_all(b"asked").await.unwrap();
        assert_eq!(read(&mut server).await, b"asked");
        link.cut();
        assert_eq!(read(&mut client).await, b"");
        assert_eq!(read(&mut server).await, b"");
        let again = TcpStream::connect(("127.0.0.1", link.port())).await;
        assert!(again.is_ok());
    }

    #[tokio::test]
    async fn a_connection_that_lost_something_ends_when_the_way_is_open_again() {
        let (link, mut client, mut server) = pair().await;
        link.be(Mode::Swallows(Lost::Answers));
        client.write_all(b"asked").await.unwrap();
        assert_eq!(read(&mut server).await, b"asked");
        server.write_all(b"answered").await.unwrap();
        let patience = Duration::from_millis(100);
        let silence = tokio::time::timeout(patience, client.read_u8()).await;
        assert!(silence.is_err(), "the answer came through");
        link.be(Mode::Open);
        assert_eq!(read(&mut client).await, b"");
    }

    #[tokio::test]
    async fn a_connection_that_lost_nothing_goes_on() {
        let (link, mut client, mut server) = pair().await;
        link.be(Mode::Swallows(Lost::Everything));
        link.be(Mode::Open);
        client.write_all(b"asked").await.unwrap();
        assert_eq!(read(&mut server).await, b"asked");
    }

    #[tokio::test]
    async fn nobody_hears_the_other_side_closing_while_the_way_swallows() {
        let (link, mut client, server) = pair().await;
        link.be(Mode::Swallows(Lost::Everything));
        drop(server);
        let patience = Duration::from_millis(100);
        let silence = tokio::time::timeout(patience, client.read_u8()).await;
        assert!(silence.is_err(), "the end came through");
        link.be(Mode::Open);
        assert_eq!(read(&mut client).await, b"");
    }
}
