//! Certificates: ours for the members, and which of theirs we believe.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, RootCertStore};

use super::options::EtcdOptions;
use super::verifier::{Verifier, is_ca_as_server};

/// Where our certificates are.
#[derive(Clone, Debug)]
pub(super) struct Files {
    ca: Option<PathBuf>,
    /// Certificate and key.
    client: Option<(PathBuf, PathBuf)>,
}

impl Files {
    /// What the options name; the error says which of two is missing.
    pub(super) fn new(options: &EtcdOptions) -> Result<Self, String> {
        let client = options.client_certificate()?.map(|(cert, key)| (cert.to_owned(), key.to_owned()));
        Ok(Self { ca: options.authorities().map(Path::to_owned), client })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ca.is_none() && self.client.is_none()
    }

    /// Reads the files as they are now. The error names the file and its flag.
    pub(super) fn read(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let verifier = Arc::new(self.verifier(provider)?);
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match &self.client {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = certificates(cert, "--etcd-certfile")?;
                let secret = read(key, "--etcd-keyfile")?;
                let secret = PrivateKeyDer::from_pem_slice(&secret)
                    .map_err(|_error| bad(key, "--etcd-keyfile", "holds no private key that is plain PEM"))?;
                builder.with_client_auth_cert(chain, secret).map_err(|error| {
                    format!(
                        "{} (--etcd-certfile) and {} (--etcd-keyfile) don't go together: {error}",
                        cert.display(),
                        key.display()
                    )
                })?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    fn verifier(&self, provider: Arc<CryptoProvider>) -> Result<Verifier, String> {
        let mut roots = RootCertStore::empty();
        let mut given = Vec::new();
        if let Some(ca) = &self.ca {
            given = certificates(ca, "--etcd-cafile")?;
            for certificate in &given {
                roots.add(certificate.clone()).map_err(|error| {
                    bad(ca, "--etcd-cafile", &format!("holds a bad certificate: {error}"))
                })?;
            }
        } else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("this system trusts no CA at all; give etcd's with --etcd-cafile".to_owned());
            }
        }
        Verifier::new(roots, given, provider).map_err(|error| error.to_string())
    }

    /// Why a handshake with `host` failed, and whether it would the next time, too.
    pub(super) fn explain(&self, error: &Error, host: &str) -> (String, bool) {
        let text = if let Error::InvalidCertificate(error) = error {
            return self.explain_certificate(error, host);
        } else if let Error::AlertReceived(alert) = error
            && is_about_certificates(*alert)
        {
            self.explain_alert(error)
        } else if let Error::InvalidMessage(_) = error {
            "does not speak TLS; is it http:// in --etcd-endpoints?".to_owned()
        } else {
            format!("TLS failed: {error}")
        };
        (text, true)
    }

    fn explain_certificate(&self, error: &CertificateError, host: &str) -> (String, bool) {
        if let CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } = error
        {
            // A clock can be set and a certificate replaced without us.
            return (
                format!("its certificate is out of date, or this node's clock is wrong: {error}"),
                false,
            );
        }
        let text = match (error, &self.ca) {
            // The second: by another CA of the same name.
            (CertificateError::UnknownIssuer | CertificateError::BadSignature, Some(ca)) => {
                format!("its certificate is not signed by a CA in --etcd-cafile {}", ca.display())
            }
            (CertificateError::UnknownIssuer | CertificateError::BadSignature, None) => {
                "its certificate is not signed by a CA that this system trusts; give the CA with --etcd-cafile"
                    .to_owned()
            }
            (CertificateError::NotValidForNameContext { presented, .. }, _) => format!(
                "its certificate is not for {host} but for {}; name it so in --etcd-endpoints",
                presented.iter().map(|name| plain(name)).collect::<Vec<_>>().join(", ")
            ),
            (error, _) if is_ca_as_server(error) => {
                "its certificate is a CA's; give that very certificate with --etcd-cafile".to_owned()
            }
            (other, _) => format!("its certificate is of no use: {other}"),
        };
        (text, true)
    }

    /// What it means that the server turned us away.
    fn explain_alert(&self, error: &Error) -> String {
        match &self.client {
            Some((cert, _)) => {
                format!(
                    "does not accept --etcd-certfile {} (its CA, dates or purpose): {error}",
                    cert.display()
                )
            }
            None => format!("wants a client certificate, --etcd-certfile and --etcd-keyfile: {error}"),
        }
    }
}

/// Whether an alert (RFC 8446, 6.2) says that our certificate, or that we have none, was the matter.
fn is_about_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
    )
}

/// A name without what rustls puts around it: `DnsName("etcd.example")`, `IpAddress(192.0.2.1)`.
fn plain(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

fn read(path: &Path, flag: &str) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("cannot read {} ({flag}): {error}", path.display()))
}

fn bad(path: &Path, flag: &str, what: &str) -> String {
    format!("{} ({flag}) {what}", path.display())
}

fn certificates(path: &Path, flag: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(path, flag)?;
    let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| bad(path, flag, &format!("is not PEM: {error}")))?;
    if found.is_empty() {
        return Err(bad(path, flag, "holds no certificate in PEM"));
    }
    Ok(found)
}
