//! The listener of `--healthz-ip` and `--healthz-port`: `/healthz`, `/readyz` and `/metrics`.
//!
//! hyper does the protocol; it is part of the agent anyway, for etcd. A probe is one short request, so that there is no
//! keep-alive, and whoever takes long is cut off: by a deadline for the request's head, by one for the whole
//! connection, and, when too many are open, by the next client.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::errno::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tracing::{debug, info};

mod probes;

pub use probes::{LoopEnd, Probes, Question, probes};

/// What a client may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections at a time; one more ends the oldest.
    connections: usize,
    /// Until the request's head is there.
    head: Duration,
    /// Until the connection is over.
    connection: Duration,
}

const LIMITS: Limits =
    Limits { connections: 64, head: Duration::from_secs(5), connection: Duration::from_secs(15) };

/// Far more than a probe's request head needs; hyper's own minimum.
const BUFFER: usize = 8192;
/// How long to wait when the kernel hands out no connection: it is out of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// The listener. It answers until it is dropped.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl HttpServer {
    /// Listens on `ip` and `port`, unless the port is 0, which is flannel's way to say that nobody asks.
    ///
    /// Needs a running tokio runtime, and answers on it.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn listen(ip: IpAddr, port: u16, probes: Probes) -> Result<Option<Self>> {
        if port == 0 {
            return Ok(None);
        }
        let address = SocketAddr::new(ip, port);
        let server = Self::on(address, probes, LIMITS).await.with_context(|| {
            format!("cannot listen on {address} for health checks and metrics; choose another --healthz-ip or --healthz-port")
        })?;
        info!("answering /healthz, /readyz and /metrics on {address}");
        Ok(Some(server))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    async fn on(address: SocketAddr, probes: Probes, limits: Limits) -> std::io::Result<Self> {
        let listener = bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { address, task: tokio::spawn(accept(listener, probes, limits)) })
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ends a connection with its place in the queue.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// All addresses are those of IPv4 where the kernel has no IPv6.
async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error)
            if address.ip() == Ipv6Addr::UNSPECIFIED
                && error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        other => other,
    }
}

async fn accept(listener: TcpListener, probes: Probes, limits: Limits) {
    let mut open: VecDeque<Connection> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!("cannot accept a health check: {error}");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        open.retain(|connection| !connection.0.is_finished());
        // The oldest had the most time. A probe is answered long before so many others have come.
        if open.len() >= limits.connections {
            open.pop_front();
        }
        open.push_back(Connection(tokio::spawn(serve(stream, probes.clone(), limits))));
    }
}

async fn serve(stream: TcpStream, probes: Probes, limits: Limits) {
    let service = service_fn(|request| {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let probes = probes.clone();
        async move { Ok::<_, Infallible>(probes.answer(&method, &path).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .keep_alive(false)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(limits.connection, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!("a health check went wrong: {error}"),
        Err(_elapsed) => debug!("a health check took longer than {:?}", limits.connection),
    }
}

#[cfg(test)]
mod tests;
