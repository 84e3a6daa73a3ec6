//! Connections to one member: TCP, and TLS over it where its scheme says so.
//!
//! gRPC's own connector would do but for two things: it reads certificates once for ever, and it does not let on why a
//! handshake failed.

use std::io;
use std::sync::Arc;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, rustls};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::{Service as _, service_fn};

use super::failure::root_cause;
use super::tls::Files;

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// Trying again may help.
    #[error("{0}")]
    Failed(String),
    /// One of us does not accept the other's certificate.
    #[error("{0}")]
    Untrusted(String),
}

/// Bytes both ways.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A channel that connects when it is used, and again whenever it has to; with TLS where there are `files`.
pub(super) fn channel(endpoint: &Endpoint, files: Option<Arc<Files>>) -> Channel {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    // The whole of it: with several addresses, each gets its share.
    tcp.set_connect_timeout(endpoint.get_connect_timeout());
    endpoint.connect_with_connector_lazy(service_fn(move |uri: Uri| open(tcp.clone(), uri, files.clone())))
}

async fn open(
    mut tcp: HttpConnector,
    uri: Uri,
    files: Option<Arc<Files>>,
) -> Result<TokioIo<Box<dyn Stream>>, OpenError> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    std::future::poll_fn(|context| tcp.poll_ready(context)).await.map_err(|error| failed(&error))?;
    let stream = tcp.call(uri).await.map_err(|error| failed(&error))?.into_inner();
    let Some(files) = files else { return Ok(TokioIo::new(Box::new(stream))) };
    // While a certificate is being replaced, the files may not go together for a moment.
    let config = files.read().map_err(OpenError::Failed)?;
    let name = ServerName::try_from(host.clone())
        .map_err(|_error| OpenError::Untrusted(format!("'{host}' is no name that a certificate can have")))?;
    let secured = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let stream = secured.map_err(|error| match tls_error(&error) {
        None => OpenError::Failed(format!("TLS failed: {error}")),
        Some(error) => match files.explain(error, &host) {
            (text, true) => OpenError::Untrusted(text),
            (text, false) => OpenError::Failed(text),
        },
    })?;
    Ok(TokioIo::new(Box::new(stream)))
}

fn failed(error: &(dyn std::error::Error + 'static)) -> OpenError {
    OpenError::Failed(root_cause(error))
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}
