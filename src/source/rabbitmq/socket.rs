//! The TCP socket under a client's connection, for whoever must end it at once.
//!
//! The client reads all that the broker sends until a close is confirmed, and the confirmation comes behind
//! everything that is already on its way: of large messages, that is what should not have come at all. Cut
//! off, it reads no more than what its socket and its own buffer hold, some megabytes. Invariant: a client
//! whose socket was cut connects no more.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapin::tcp::{AMQPUriTcpExt as _, AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};

/// The client has a clone, so that the second handle on the socket lives as long as the client's thread.
#[derive(Debug, Default, Clone)]
pub(super) struct Socket(Arc<Mutex<State>>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Unconnected,
    Connected(TcpStream),
    Cut,
}

impl Socket {
    /// Connects as the client would by itself.
    ///
    /// # Errors
    /// What the client says, of TCP, TLS and AMQP alike.
    pub(super) async fn connect(
        &self,
        uri: AMQPUri,
        properties: ConnectionProperties,
        tls: OwnedTLSConfig,
    ) -> Result<Connection, lapin::Error> {
        let runtime = lapin::runtime::default_runtime()?;
        // The closure's own runtime is of a type that cannot be named here.
        let (socket, on) = (self.clone(), runtime.clone());
        let connect = async move |uri: AMQPUri, _| {
            let stream = uri.connect_with_config_async(tls.as_ref(), &on).await?;
            let tcp = match &stream {
                AsyncTcpStream::Plain(tcp) => tcp.get_ref(),
                AsyncTcpStream::Rustls(tls) => tls.get_ref().0.get_ref(),
                _ => return Err(io::Error::other("TLS is not by rustls").into()),
            };
            socket.hold(tcp.as_fd().try_clone_to_owned()?.into())?;
            Ok(stream)
        };
        Connection::connector(uri, runtime, connect, properties).await
    }

    /// Ends the connection as a dead process would: the broker takes back what is not acknowledged.
    pub(super) fn cut(&self) {
        if let State::Connected(tcp) = std::mem::replace(&mut *self.state(), State::Cut)
            && let Err(cause) = tcp.shutdown(Shutdown::Both)
        {
            tracing::debug!(%cause, "the connection was gone already");
        }
    }

    /// The client tries again by itself when a broker hangs up early.
    fn hold(&self, tcp: TcpStream) -> io::Result<()> {
        let mut state = self.state();
        if let State::Cut = *state {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        *state = State::Connected(tcp);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
