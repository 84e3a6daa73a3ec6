//! Endpoints that answer but are not the etcd that we are to use.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use ovl_agent::store::etcd::EtcdStore;
use ovl_agent::store::{Registry as _, Store as _, StoreError};

use crate::auth::Guarded;
use crate::etcd::{RealEtcd, options};
use crate::fixture::Fixture as _;
use crate::values::{ME, attrs, key};
use crate::watcher::watching;

const A: &str = "10.42.1.0-24";

/// Frame types and flags of HTTP/2 (RFC 9113, section 6), and its status 404 as HPACK has it (RFC 7541, appendix A).
mod h2 {
    pub(super) const PREFACE: usize = 24;
    pub(super) const HEADER: usize = 9;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const ACK: u8 = 1;
    pub(super) const WHOLE: u8 = 0x01 | 0x04;
    pub(super) const NOT_FOUND: u8 = 0x80 | 0x0d;
}

/// A web server, which has nothing at any address; its URL.
fn web_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // Ends with the process, each connection with its client.
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            thread::spawn(move || serve(client));
        }
    });
    url
}

fn serve(mut client: TcpStream) -> io::Result<()> {
    client.read_exact(&mut [0; h2::PREFACE])?;
    send(&mut client, h2::SETTINGS, 0, 0, &[])?;
    loop {
        let mut header = [0; h2::HEADER];
        client.read_exact(&mut header)?;
        let [a, b, c, kind, flags, stream @ ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        client.read_exact(&mut payload)?;
        match kind {
            h2::HEADERS => {
                send(&mut client, h2::HEADERS, h2::WHOLE, u32::from_be_bytes(stream), &[h2::NOT_FOUND])?;
            }
            h2::SETTINGS if flags != h2::ACK => send(&mut client, h2::SETTINGS, h2::ACK, 0, &[])?,
            h2::PING if flags != h2::ACK => send(&mut client, h2::PING, h2::ACK, 0, &payload)?,
            _ => {}
        }
    }
}

fn send(client: &mut TcpStream, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
    let [_, _, _, length] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let header = [&[0, 0, length, kind, flags][..], &stream.to_be_bytes()].concat();
    client.write_all(&[&header, payload].concat())
}

#[tokio::test]
async fn an_endpoint_that_is_another_server_costs_nothing() {
    let (etcd, guarded) = (RealEtcd::start(), Guarded::start());
    for stranger in [web_server(), guarded.server.url().to_owned()] {
        let store = EtcdStore::connect(&options(&[&stranger, etcd.server.url()])).await.unwrap();
        assert_eq!(store.network_config().await.unwrap(), None);
        store.claim_identity(ME.into()).await.unwrap();
        let held = store.create(key(A), &attrs(ME)).await.unwrap();
        watching(&store, async |watcher| {
            watcher.first().await;
            assert_eq!(watcher.names(), [A]);
        })
        .await;
        assert_eq!(etcd.terms().len(), 2, "the lease's and the claim's");
        store.renew(&held).await.unwrap();
        store.release().await;
        etcd.delete(&format!("subnets/{A}"));
        etcd.etcdctl(&["lease", "revoke", &format!("{:016x}", held.term)]);
    }
}

#[tokio::test]
async fn an_endpoint_that_is_no_etcd_is_named_and_waited_for() {
    let stranger = web_server();
    let dead = "http://127.0.0.1:1";
    for endpoints in [&[stranger.as_str()][..], &[&stranger, dead], &[dead, &stranger]] {
        let store = EtcdStore::connect(&options(endpoints)).await.unwrap();
        // Nor is it taken for an etcd that keeps no claims.
        for error in [
            store.network_config().await.unwrap_err(),
            store.claim_identity(ME.into()).await.unwrap_err(),
            store.create(key(A), &attrs(ME)).await.unwrap_err(),
        ] {
            let StoreError::Unavailable(text) = &error else { panic!("{error:?}") };
            for part in [&stranger, "404", "no etcd"] {
                assert!(text.contains(part), "'{part}' is not in: {text}");
            }
            assert!(!text.contains('\n'), "{text}");
        }
    }
}
