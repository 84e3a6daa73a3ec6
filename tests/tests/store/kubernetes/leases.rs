//! What our Node says, and what is said of it.

use ovl_agent::family::ByFamily;
use ovl_agent::lease::LeaseAttrs;
use ovl_agent::network::Network;
use ovl_agent::store::kubernetes::{KubernetesStore, NodeName};
use ovl_agent::store::{DataPlane, Held, Store as _, StoreError};
use serde_json::json;

use super::{Kubernetes, ME};
use crate::fixture::Fixture as _;
use crate::values::key;

const IPV4: &str = r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}"#;
const DUAL: &str =
    r#"{"Network":"10.42.0.0/16","EnableIPv6":true,"IPv6Network":"fd42::/48","Backend":{"Type":"vxlan"}}"#;
const SUBNETS: [&str; 2] = ["10.42.1.0/24", "fd42:0:0:1::/64"];

pub(super) fn vxlan(ipv6: bool) -> LeaseAttrs {
    let ipv6_data = r#","BackendV6Data":{"VNI":1,"VtepMAC":"86:0f:11:3b:72:04"}"#;
    let text = format!(
        r#"{{"PublicIP":"192.0.2.11","PublicIPv6":{},"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"d2:41:0a:9c:55:e1"}}{}}}"#,
        if ipv6 { r#""2001:db8::11""# } else { "null" },
        if ipv6 { ipv6_data } else { "" },
    );
    serde_json::from_str(&text).unwrap()
}

pub(super) async fn take(
    store: &KubernetesStore,
    config: &str,
    attrs: &LeaseAttrs,
) -> Result<Held, StoreError> {
    let network = Network::parse_for_assigned(config).unwrap();
    store.acquire(&network, attrs, ByFamily::default()).await
}

#[tokio::test]
async fn a_lease_is_the_nodes_pod_cidr_and_its_annotations_are_flannels() {
    let cluster = Kubernetes::start();
    let server = &cluster.server;
    server.add_node(ME, &SUBNETS);
    let store = cluster.open().await;
    let held = take(&store, DUAL, &vxlan(true)).await.unwrap();
    assert_eq!(held.lease.key, key("10.42.1.0-24&fd42:0:0:1::-64"));
    assert_eq!((&held.lease.attrs, held.expires), (&vxlan(true), None));
    let expected = [
        ("kube-subnet-manager", "true"),
        ("backend-type", "vxlan"),
        ("backend-data", r#"{"VNI":1,"VtepMAC":"d2:41:0a:9c:55:e1"}"#),
        ("backend-v6-data", r#"{"VNI":1,"VtepMAC":"86:0f:11:3b:72:04"}"#),
        ("public-ip", "192.0.2.11"),
        ("public-ipv6", "2001:db8::11"),
    ];
    for (suffix, value) in expected {
        assert_eq!(server.annotation(ME, suffix).as_deref(), Some(value), "{suffix}");
    }
    let others = &server.node(ME).unwrap()["metadata"]["annotations"];
    assert_eq!(others["volumes.kubernetes.io/controller-managed-attach-detach"], "true");
    assert_eq!(others.as_object().unwrap().len(), expected.len() + 1);

    // Said already: nothing is written.
    let again = take(&store, DUAL, &vxlan(true)).await.unwrap();
    assert_eq!((again.revision, server.count("patch nodes/status")), (held.revision, 1));
    // IPv6 switched off: the lease has one family, and what was said of the other goes.
    let ipv4 = take(&store, IPV4, &vxlan(false)).await.unwrap();
    assert_eq!(ipv4.lease.key, key("10.42.1.0-24"));
    assert_eq!(server.annotation(ME, "public-ipv6"), None);
    assert_eq!(server.annotation(ME, "backend-v6-data"), None);
}

#[tokio::test]
async fn the_other_backends_say_what_flannels_say() {
    let cluster = Kubernetes::start();
    let server = &cluster.server;
    server.add_node(ME, &SUBNETS);
    let store = cluster.open().await;
    for kind in ["host-gw", ""] {
        let text =
            format!(r#"{{"PublicIP":"192.0.2.11","PublicIPv6":"2001:db8::11","BackendType":"{kind}"}}"#);
        take(&store, DUAL, &serde_json::from_str(&text).unwrap()).await.unwrap();
        let said = |suffix: &str| server.annotation(ME, suffix).unwrap();
        assert_eq!(
            (said("backend-type"), said("backend-data"), said("backend-v6-data")),
            (kind.into(), "null".into(), "null".into())
        );
        assert_eq!((said("public-ip"), said("public-ipv6")), ("192.0.2.11".into(), "2001:db8::11".into()));
    }
}

#[tokio::test]
async fn a_node_without_annotations_is_no_trouble() {
    let cluster = Kubernetes::start();
    let server = &cluster.server;
    server.put_node(ME, &json!({ "metadata": { "name": ME }, "spec": { "podCIDR": SUBNETS[0] } }));
    take(&cluster.open().await, IPV4, &vxlan(false)).await.unwrap();
    assert_eq!(server.annotation(ME, "public-ip").as_deref(), Some("192.0.2.11"));
}

#[tokio::test]
async fn what_is_missing_is_waited_for_and_what_is_wrong_is_named() {
    let cluster = Kubernetes::start();
    let server = &cluster.server;
    let refusal = async |config: &str| {
        let store = cluster.open().await;
        take(&store, config, &vxlan(false)).await.unwrap_err()
    };
    let absent = refusal(IPV4).await;
    assert!(
        matches!(&absent, StoreError::Unavailable(text) if text.contains("no Node 'node-1'")),
        "{absent:?}"
    );
    server.add_node(ME, &[]);
    let none = refusal(IPV4).await;
    assert!(
        matches!(&none, StoreError::Unavailable(text) if text.contains("--allocate-node-cidrs")),
        "{none:?}"
    );
    server.add_node(ME, &["10.42.1.0/24", "10.42.2.0/24", "10.42.3.0/24"]);
    let three = refusal(IPV4).await;
    assert!(three.to_string().contains("3 podCIDRs"), "{three}");
    server.add_node(ME, &["10.99.1.0/24"]);
    let outside = refusal(IPV4).await;
    assert!(matches!(&outside, StoreError::Refused(text) if text.contains("--cluster-cidr")), "{outside:?}");
    assert_eq!(server.count("patch nodes/status"), 0);
    // A network of two families, a node of one: it takes part with that.
    server.add_node(ME, &SUBNETS[..1]);
    let held = take(&cluster.open().await, DUAL, &vxlan(true)).await.unwrap();
    assert_eq!(held.lease.key, key("10.42.1.0-24"));
}

#[tokio::test]
async fn an_operators_addresses_go_before_the_nodes_own() {
    let cluster = Kubernetes::start();
    let server = &cluster.server;
    server.add_node(ME, &SUBNETS);
    server.annotate(
        ME,
        &[("public-ip-overwrite", Some("203.0.113.9")), ("node-public-ip", Some("192.0.2.77"))],
    );
    let store = cluster.open().await;
    let remembered = store.remembered().await.unwrap();
    assert_eq!(remembered.public_ips.to_string(), "192.0.2.77");
    let held = take(&store, DUAL, &vxlan(true)).await.unwrap();
    assert_eq!(held.overwritten.to_string(), "203.0.113.9");
    assert_eq!(held.lease.attrs, vxlan(true).overwritten_by(&held.overwritten));
    assert_eq!(server.annotation(ME, "public-ip").as_deref(), Some("203.0.113.9"));
    assert_eq!(server.annotation(ME, "public-ipv6").as_deref(), Some("2001:db8::11"));
    // What it told peers is remembered for the next start.
    let remembered = cluster.open().await.remembered().await.unwrap();
    assert_eq!(remembered.backend_data.v4, vxlan(true).backend_data);
    // Taken away again, without a restart.
    server.annotate(ME, &[("public-ip-overwrite", None)]);
    let held = store.renew(&held).await.unwrap();
    assert_eq!((held.overwritten, held.lease.attrs), (ByFamily::default(), vxlan(true)));
    assert_eq!(server.annotation(ME, "public-ip").as_deref(), Some("192.0.2.11"));
}

#[tokio::test]
async fn annotations_can_begin_otherwise() {
    for (prefix, name) in
        [("example.com", "example.com/public-ip"), ("example.com/a", "example.com/a-public-ip")]
    {
        let cluster = Kubernetes::start();
        let server = &cluster.server;
        server.add_node(ME, &SUBNETS);
        let mut options = cluster.options();
        options.annotations = prefix.parse().unwrap();
        let store = KubernetesStore::open(options).await.unwrap();
        take(&store, IPV4, &vxlan(false)).await.unwrap();
        let node = server.node(ME).unwrap();
        assert_eq!(node["metadata"]["annotations"][name], "192.0.2.11", "{prefix}");
        assert_eq!(store.remembered().await.unwrap().backend_data.v4, vxlan(false).backend_data, "{prefix}");
        assert_eq!(server.annotation(ME, "public-ip"), None);
    }
}

#[tokio::test]
async fn what_somebody_else_wrote_into_our_node_is_put_right() {
    let cluster = Kubernetes::start();
    let server = &cluster.server;
    server.add_node(ME, &SUBNETS);
    let store = cluster.open().await;
    let held = take(&store, IPV4, &vxlan(false)).await.unwrap();
    assert_eq!(store.renew(&held).await.unwrap().revision, held.revision, "nothing to write");
    server.annotate(ME, &[("public-ip", Some("192.0.2.99")), ("backend-data", None)]);
    let renewed = store.renew(&held).await.unwrap();
    assert!(renewed.revision > held.revision);
    assert_eq!(server.annotation(ME, "public-ip").as_deref(), Some("192.0.2.11"));
    // Deleted and made anew, with another podCIDR: that is another lease.
    server.delete_node(ME);
    assert!(matches!(store.renew(&held).await, Err(StoreError::Unavailable(_))));
    server.add_node(ME, &["10.42.7.0/24"]);
    assert!(matches!(store.renew(&held).await, Err(StoreError::Conflict(_))));
    assert_eq!(server.annotation(ME, "public-ip"), None, "not before the subnet is known");
    assert_eq!(take(&store, IPV4, &vxlan(false)).await.unwrap().lease.key, key("10.42.7.0-24"));
}

#[tokio::test]
async fn the_condition_follows_the_data_plane() {
    let cluster = Kubernetes::start();
    let server = &cluster.server;
    server.add_node(ME, &SUBNETS);
    server.set_condition(ME, "NetworkUnavailable", "True");
    let store = cluster.open().await;
    let held = take(&store, IPV4, &vxlan(false)).await.unwrap();
    let said = || server.condition(ME, "NetworkUnavailable").unwrap();
    let word = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
    store.report(&DataPlane::Works).await.unwrap();
    assert_eq!(said(), word("False", "FlannelIsUp"));
    let node = server.node(ME).unwrap();
    let conditions = node["status"]["conditions"].as_array().unwrap();
    assert_eq!(conditions.len(), 2, "kubelet's own stays: {conditions:?}");
    let ours = conditions.iter().find(|condition| condition["type"] == "NetworkUnavailable").unwrap();
    assert_eq!(ours["message"], "Flannel is running on this node");
    assert!(ours["lastTransitionTime"].as_str().unwrap().ends_with('Z'));
    store.report(&DataPlane::Broken("no device".into())).await.unwrap();
    assert_eq!(said(), word("True", "FlannelIsDown"));
    store.report(&DataPlane::Works).await.unwrap();
    // A cloud's controller says otherwise, as for a node that was made anew.
    server.set_condition(ME, "NetworkUnavailable", "True");
    store.renew(&held).await.unwrap();
    assert_eq!(said(), word("False", "FlannelIsUp"));
    // Switched off, nothing is said.
    let mut options = cluster.options();
    options.sets_condition = false;
    let patches = server.count("patch nodes/status");
    KubernetesStore::open(options).await.unwrap().report(&DataPlane::Works).await.unwrap();
    assert_eq!(server.count("patch nodes/status"), patches);
}

#[tokio::test]
async fn a_pod_finds_its_node() {
    let cluster = Kubernetes::start();
    let server = &cluster.server;
    server.add_node(ME, &SUBNETS);
    let mut options = cluster.options();
    options.node = NodeName::OfPod { namespace: "kube-flannel".into(), name: "ovl-x7k2p".into() };
    let store = KubernetesStore::open(options).await.unwrap();
    let absent = store.remembered().await.unwrap_err().to_string();
    assert!(absent.contains("POD_NAME"), "{absent}");
    server.add_pod("kube-flannel", "ovl-x7k2p", Some(ME));
    take(&store, IPV4, &vxlan(false)).await.unwrap();
    assert!(store.describe().contains("Node 'node-1'"), "{}", store.describe());
    assert_eq!(server.count("get pods"), 2, "asked once more, and then known");
}
