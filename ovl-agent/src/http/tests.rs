//! The listener as clients see it, byte by byte.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::facts::example;

/// How long anything may take that should take a moment.
const SOON: Duration = Duration::from_secs(10);

async fn start(limits: Limits) -> (HttpServer, LoopEnd) {
    let (probes, loop_end) = probes();
    let probes = probes.impatient(Duration::from_millis(50));
    let server = HttpServer::on((Ipv4Addr::LOCALHOST, 0).into(), probes, limits).await.expect("a free port");
    (server, loop_end)
}

async fn say(server: &HttpServer, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).await.expect("it listens");
    stream.write_all(bytes).await.expect("taken");
    stream
}

/// Everything that comes until the server closes.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("it closes");
    // A reset is one way to close.
    read.unwrap_or_default();
    String::from_utf8(bytes).expect("text")
}

/// Status and body of the answer to one request.
async fn ask(server: &HttpServer, method: &str, path: &str) -> (u16, String) {
    let answer =
        rest(say(server, format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await).await;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {answer:?}"));
    (status.unwrap_or_else(|| panic!("no status: {answer:?}")), body.to_owned())
}

#[tokio::test(flavor = "current_thread")]
async fn all_addresses_are_those_of_ipv4_too() {
    let (probes, _loop_end) = probes();
    let server =
        HttpServer::on((Ipv6Addr::UNSPECIFIED, 0).into(), probes, LIMITS).await.expect("a free port");
    TcpStream::connect((Ipv4Addr::LOCALHOST, server.address().port())).await.expect("it listens");
}

#[tokio::test(flavor = "current_thread")]
async fn every_path_and_method_has_its_answer() {
    let (server, loop_end) = start(LIMITS).await;
    let table = [
        ("GET", "/healthz", 200, "flanneld is running"),
        ("GET", "/healthz?verbose", 200, "flanneld is running"),
        ("HEAD", "/healthz", 200, ""),
        ("GET", "/readyz", 503, "flanneld is not ready yet"),
        ("POST", "/healthz", 405, "only GET is answered here"),
        ("DELETE", "/metrics", 405, "only GET is answered here"),
        ("GET", "/", 404, "there are /healthz, /readyz and /metrics"),
        ("POST", "/healthz/", 404, "there are /healthz, /readyz and /metrics"),
        ("GET", "/../healthz", 404, "there are /healthz, /readyz and /metrics"),
    ];
    for (method, path, status, body) in table {
        assert_eq!(ask(&server, method, path).await, (status, body.to_owned()), "{method} {path}");
    }
    loop_end.set_ready(true);
    assert_eq!(ask(&server, "GET", "/readyz").await, (200, "flanneld is ready".to_owned()));
    loop_end.set_ready(false);
    assert_eq!(ask(&server, "GET", "/readyz").await.0, 503);
}

#[tokio::test(flavor = "current_thread")]
async fn metrics_are_what_the_loop_knows_now() {
    let (server, mut loop_end) = start(LIMITS).await;
    let (status, page) = ask(&server, "GET", "/metrics").await;
    assert!(status == 200 && page.contains("\novl_ready 0\n"), "before the lease: {page}");
    loop_end.turned();
    let answering = tokio::spawn(async move {
        loop {
            let question = loop_end.question().await;
            assert!(question.send(example()).is_ok(), "somebody waits");
        }
    });
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = rest(say(&server, request).await).await;
    assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
    assert!(answer.contains("\novl_ready 1\n"), "{answer}");
    answering.abort();
}

#[tokio::test(flavor = "current_thread")]
async fn a_loop_that_does_not_answer_is_an_error_and_no_hang() {
    let (server, loop_end) = start(LIMITS).await;
    loop_end.turned();
    for _ in 0..20 {
        let (status, body) = ask(&server, "GET", "/metrics").await;
        assert!(status == 503 && body.contains("did not answer within 50ms"), "{body}");
    }
    assert_eq!(ask(&server, "GET", "/healthz").await.0, 200);
}

#[tokio::test(flavor = "current_thread")]
async fn slow_and_broken_clients_are_cut_off_and_hurt_nobody() {
    let short = Duration::from_millis(100);
    let (server, _loop_end) = start(Limits { head: short, connection: short * 3, ..LIMITS }).await;
    let mut long_head = b"GET /healthz HTTP/1.1\r\n".to_vec();
    for header in 0..5000 {
        long_head.extend(format!("X-{header}: {header}\r\n").bytes());
    }
    let clients: [&[u8]; 6] = [
        b"",
        b"GET /healthz HT",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /healthz\r\n\r\n",
        &long_head,
    ];
    for bytes in clients {
        let answer = rest(say(&server, bytes).await).await;
        assert!(!answer.contains("200 OK"), "{answer}");
        assert_eq!(ask(&server, "GET", "/healthz").await.0, 200);
    }
    // A body that never comes: the answer does.
    let stream = say(&server, b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n").await;
    assert!(rest(stream).await.contains("flanneld is running"));
}

#[tokio::test(flavor = "current_thread")]
async fn too_many_connections_end_the_oldest_and_a_probe_gets_through() {
    // Nobody is cut off by time.
    let (server, _loop_end) = start(Limits { connections: 8, head: SOON * 6, connection: SOON * 6 }).await;
    let mut idle = VecDeque::new();
    for _ in 0..200 {
        idle.push_back(say(&server, b"GET /healthz HTTP/1.1\r\n").await);
    }
    assert_eq!(ask(&server, "GET", "/healthz").await, (200, "flanneld is running".to_owned()));
    let oldest = idle.pop_front().expect("200 of them");
    assert_eq!(rest(oldest).await, "", "the oldest was ended");
}

#[tokio::test(flavor = "current_thread")]
async fn a_port_in_use_is_named_with_its_flag_and_port_0_is_off() {
    let (server, _loop_end) = start(LIMITS).await;
    let address = server.address();
    let (other, _loop_end) = probes();
    let error = HttpServer::listen(address.ip(), address.port(), other.clone()).await.expect_err("taken");
    let error = format!("{error:#}");
    assert!(error.contains(&address.to_string()) && error.contains("--healthz-port"), "{error}");
    assert!(HttpServer::listen(address.ip(), 0, other.clone()).await.expect("off").is_none());
    drop(server);
    // The listener goes with its task, which ends at the next turn of the runtime.
    tokio::task::yield_now().await;
    assert!(HttpServer::listen(address.ip(), address.port(), other).await.expect("free").is_some());
}
