//! Connections to one member: TCP, and TLS over it where its scheme says so.
//!
//! gRPC's own connector would do but for two things: it reads certificates once for ever, and it does not let on why a
//! handshake failed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, rustls};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::{Service as _, service_fn};

use super::failure::root_cause;
use super::tls::Files;

/// How long a server is given to turn us away.
const PROBE: Duration = Duration::from_secs(1);
/// How long it may take to get that far; a member that hangs says nothing at all.
const PROBE_CONNECT: Duration = Duration::from_secs(3);

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// Trying again may help.
    #[error("{0}")]
    Failed(String),
    /// One of us does not accept the other's certificate, or only one of us speaks TLS.
    #[error("{0}")]
    Untrusted(String),
}

/// Bytes both ways.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A channel that connects when it is used, and again whenever it has to; with TLS where there are `files`.
pub(super) fn channel(endpoint: &Endpoint, files: Option<Arc<Files>>) -> Channel {
    let mut tcp = HttpConnector::new();
    // The whole of it: with several addresses, each gets its share.
    tcp.set_connect_timeout(endpoint.get_connect_timeout());
    endpoint.connect_with_connector_lazy(service_fn(move |uri: Uri| open(tcp.clone(), uri, files.clone())))
}

/// What a new connection, on which nothing is asked, says of why the last one broke.
///
/// In TLS 1.3 a server turns a client away when the client takes the handshake for done and speaks already, and what
/// the server said is lost. A server that wants TLS where we speak plainly just hangs up.
pub(super) async fn probe(uri: Uri, files: &Files, has_tls: bool) -> Option<OpenError> {
    let host = host(&uri);
    let connect = async {
        let stream = dial(HttpConnector::new(), uri).await.ok()?;
        Some(handshake(files, &host, stream).await)
    };
    let secured = timeout(PROBE_CONNECT, connect).await.ok()??;
    if has_tls {
        let mut stream = secured.ok()?;
        let answer = timeout(PROBE, stream.read_u8()).await.ok()?;
        return answer.err().as_ref().and_then(tls_error).map(|error| explain(files, error, &host));
    }
    match secured {
        Ok(_) | Err(OpenError::Untrusted(_)) => {
            Some(OpenError::Untrusted("speaks TLS; name it https:// in --etcd-endpoints".to_owned()))
        }
        Err(OpenError::Failed(_)) => None,
    }
}

async fn open(
    tcp: HttpConnector,
    uri: Uri,
    files: Option<Arc<Files>>,
) -> Result<TokioIo<Box<dyn Stream>>, OpenError> {
    let host = host(&uri);
    let stream = dial(tcp, uri).await?;
    let Some(files) = files else { return Ok(TokioIo::new(Box::new(stream))) };
    Ok(TokioIo::new(Box::new(handshake(&files, &host, stream).await?)))
}

async fn dial(mut tcp: HttpConnector, uri: Uri) -> Result<TcpStream, OpenError> {
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let failed = |error: &(dyn std::error::Error + 'static)| OpenError::Failed(root_cause(error));
    std::future::poll_fn(|context| tcp.poll_ready(context)).await.map_err(|error| failed(&error))?;
    Ok(tcp.call(uri).await.map_err(|error| failed(&error))?.into_inner())
}

async fn handshake(files: &Files, host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, OpenError> {
    // While a certificate is being replaced, the files may not go together for a moment.
    let config = files.read().map_err(OpenError::Failed)?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_error| OpenError::Untrusted(format!("'{host}' is no name that a certificate can have")))?;
    let secured = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    secured.map_err(|error| match tls_error(&error) {
        Some(error) => explain(files, error, host),
        // As an etcd without TLS does; a member that goes down, too.
        None => OpenError::Failed(format!(
            "hung up on our TLS handshake ({error}); is it http:// in --etcd-endpoints?"
        )),
    })
}

fn host(uri: &Uri) -> String {
    uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned()
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn explain(files: &Files, error: &rustls::Error, host: &str) -> OpenError {
    match files.explain(error, host) {
        (text, true) => OpenError::Untrusted(text),
        (text, false) => OpenError::Failed(text),
    }
}
