//! An API server as clusters have it: with a certificate of the cluster's own authority, and clients that show theirs.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use ovl_agent::store::Store as _;
use ovl_agent::store::kubernetes::{KubernetesOptions, KubernetesStore};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::{Kubernetes, ME};
use crate::certificates::{Authority, Pair};
use crate::fixture::Fixture as _;

/// A front with TLS before the double; its address.
async fn front(cluster: &Kubernetes, authority: &Authority, pair: &Pair) -> SocketAddr {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.ca()).unwrap()).unwrap();
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let chain = vec![CertificateDer::from_pem_file(&pair.cert).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
    let config =
        ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = cluster.server.url().trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, target) = (acceptor.clone(), target.clone());
            tokio::spawn(async move {
                let mut inner = TcpStream::connect(target).await.unwrap();
                // A client that we do not believe, or that does not believe us, is turned away.
                if let Ok(mut outer) = acceptor.accept(stream).await {
                    let _ended = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                }
            });
        }
    });
    address
}

/// A kubeconfig as kubelet's: an authority's file, a certificate and a key of the client's own.
fn options(cluster: &Kubernetes, url: &str, authority: &Authority, client: &Pair) -> KubernetesOptions {
    let cluster_entry = json!({ "server": url, "certificate-authority": authority.ca() });
    let user = json!({ "client-certificate": client.cert, "client-key": client.key });
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{ "name": "here", "cluster": cluster_entry }],
        "users": [{ "name": "agent", "user": user }],
        "contexts": [{ "name": "here", "context": { "cluster": "here", "user": "agent" } }],
    });
    let path = cluster.folder.path().join("kubeconfig");
    fs::write(&path, text.to_string()).unwrap();
    KubernetesOptions { api_url: String::new(), kubeconfig: Some(path), ..cluster.options() }
}

#[tokio::test]
async fn certificates_of_both_sides_are_shown_and_checked() {
    let cluster = Kubernetes::start();
    cluster.server.add_node(ME, &["10.42.1.0/24"]);
    let [ours, others] = ["ours", "others"].map(|name| Authority::new(&cluster.folder.path().join(name)));
    let address = front(&cluster, &ours, &ours.issue("server", &["127.0.0.1"])).await;
    let url = format!("https://{address}");
    let client = ours.issue("client", &[]);
    let store = KubernetesStore::open(options(&cluster, &url, &ours, &client)).await.unwrap();
    store.remembered().await.unwrap();
    assert!(store.describe().contains(&url), "{}", store.describe());

    let table = [
        // Whose authority did not sign the server's certificate.
        (url.clone(), &others, ours.issue("client", &[]), "certificate-authority"),
        // A name that the server's certificate does not have.
        (url.replace("127.0.0.1", "localhost"), &ours, ours.issue("client", &[]), "not valid for name"),
        // Whose own certificate the server does not believe.
        (url.clone(), &ours, others.issue("client", &[]), ""),
    ];
    for (url, authority, client, expected) in table {
        let store = KubernetesStore::open(options(&cluster, &url, authority, &client)).await.unwrap();
        let text = store.remembered().await.unwrap_err().to_string();
        assert!(text.contains(&url) && text.contains(expected) && !text.contains('\n'), "{text}");
    }
}
