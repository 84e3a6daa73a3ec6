//! Being let in, and what is said where one is not.

use std::fs;

use ovl_agent::store::kubernetes::{KubernetesOptions, KubernetesStore};
use ovl_agent::store::{Store as _, StoreError};

use super::leases::{take, vxlan};
use super::{Kubernetes, ME};
use crate::fixture::Fixture as _;
use crate::watcher::watching;

const CONFIG: &str = r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}"#;

async fn refused(options: KubernetesOptions) -> String {
    match KubernetesStore::open(options).await {
        Err(StoreError::Refused(text)) => text,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("opened"),
    }
}

#[tokio::test]
async fn a_missing_right_is_named_by_verb_and_resource() {
    let cluster = Kubernetes::start();
    let server = &cluster.server;
    server.add_node(ME, &["10.42.1.0/24"]);
    for (question, verb, resource) in
        [("get nodes", "get", "nodes"), ("patch nodes/status", "patch", "nodes/status")]
    {
        server.refuse(question, 403);
        let error = take(&cluster.open().await, CONFIG, &vxlan(false)).await.unwrap_err();
        let StoreError::Unavailable(text) = &error else { panic!("{error:?}") };
        let needs = format!(r#"needs the verb "{verb}" on the resource "{resource}""#);
        assert!(
            text.contains(&needs) && text.contains("system:serviceaccount:kube-flannel:flannel"),
            "{text}"
        );
        server.refuse(question, 0);
    }
    for verb in ["list", "watch"] {
        server.refuse(&format!("{verb} nodes"), 403);
        let store = cluster.open().await;
        watching(&store, async |watcher| {
            watcher.until("the refusal", |now| !now.outages.is_empty()).await;
            let needs = format!(r#"needs the verb "{verb}" on the resource "nodes""#);
            assert!(watcher.outages[0].contains(&needs), "{watcher:?}");
        })
        .await;
        server.refuse(&format!("{verb} nodes"), 0);
    }
}

#[tokio::test]
async fn a_kubeconfig_leads_to_the_server_and_its_token_is_not_told() {
    let cluster = Kubernetes::start();
    let server = &cluster.server;
    server.add_node(ME, &["10.42.1.0/24"]);
    server.require_token("s3cret");
    let mut options = cluster.options();
    options.api_url = String::new();
    options.kubeconfig = Some(server.kubeconfig(cluster.folder.path(), "wr0ng").unwrap());
    let stranger = KubernetesStore::open(options.clone()).await.unwrap();
    let text = stranger.remembered().await.unwrap_err().to_string();
    assert!(text.contains("does not know who this agent is") && !text.contains("wr0ng"), "{text}");
    server.kubeconfig(cluster.folder.path(), "s3cret").unwrap();
    let known = KubernetesStore::open(options.clone()).await.unwrap();
    take(&known, CONFIG, &vxlan(false)).await.unwrap();
    assert!(
        !known.describe().contains("s3cret") && known.describe().contains(&server.url()),
        "{}",
        known.describe()
    );
    // The URL of the command line goes before that of the file.
    options.api_url = "http://127.0.0.1:1".to_owned();
    let elsewhere = KubernetesStore::open(options.clone()).await.unwrap();
    let text = elsewhere.remembered().await.unwrap_err().to_string();
    assert!(
        text.contains("http://127.0.0.1:1") && text.contains("refused") && !text.contains('\n'),
        "{text}"
    );
}

#[tokio::test]
async fn what_leads_nowhere_is_an_error_at_once() {
    let cluster = Kubernetes::start();
    let mut options = cluster.options();
    options.api_url = "not a url".to_owned();
    assert!(refused(options.clone()).await.contains("--kube-api-url"));
    options.api_url = String::new();
    let text = refused(options.clone()).await;
    assert!(text.contains("KUBERNETES_SERVICE_HOST") || text.contains("--kubeconfig-file"), "{text}");
    let file = cluster.folder.path().join("kubeconfig");
    options.kubeconfig = Some(file.clone());
    assert!(refused(options.clone()).await.contains("kubeconfig"));
    fs::write(&file, "current-context: [").unwrap();
    let text = refused(options).await;
    assert!(text.contains("--kubeconfig-file") && text.contains("cannot be used"), "{text}");
}
