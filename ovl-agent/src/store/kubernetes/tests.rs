//! How often the API server is asked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use tokio::time::Instant;

use super::*;

const ATTRS: &str = r#"{"PublicIP":"192.0.2.11","BackendType":"host-gw"}"#;

/// Kubelet registers a Node, and the controller manager may never give it a podCIDR.
#[tokio::test(start_paused = true)]
async fn a_node_without_a_pod_cidr_is_asked_for_more_and_more_slowly() {
    const QUESTIONS: usize = 8;
    let spec = Arc::new(Mutex::new("{}"));
    let now = Arc::clone(&spec);
    let answer = move |_request| {
        let spec = now.lock().expect("whole");
        Full::new(Bytes::from(format!(r#"{{"metadata":{{"name":"me"}},"spec":{spec}}}"#)))
    };
    let store = testing::store(answer).await;
    let network = Network::parse_for_assigned(r#"{"Network":"10.42.0.0/16","Backend":{"Type":"host-gw"}}"#);
    let (network, attrs) = (network.expect("valid"), serde_json::from_str(ATTRS).expect("a lease"));
    let acquire = async || {
        let started = Instant::now();
        let taken = store.acquire(&network, &attrs, ByFamily::default()).await;
        (taken.map(|held| held.lease.key.to_string()), started.elapsed())
    };
    let mut pauses = Vec::new();
    for _ in 0..QUESTIONS {
        let (taken, pause) = acquire().await;
        let reason = taken.expect_err("it has none").to_string();
        assert!(reason.contains("has no podCIDR"), "{reason}");
        pauses.push(pause);
    }
    assert!(pauses[0] < Duration::from_millis(100), "{pauses:?}");
    assert!(pauses[QUESTIONS - 1] > Duration::from_secs(14), "{pauses:?}");
    // Once it is there, what comes next waits for nothing.
    *spec.lock().expect("whole") = r#"{"podCIDRs":["10.42.1.0/24"]}"#;
    assert_eq!(acquire().await.0.expect("it has one"), "10.42.1.0-24");
    assert!(acquire().await.1 < Duration::from_millis(100));
}
