//! How to reach the API server, as whom, and for which node.

use std::env;
use std::path::PathBuf;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::annotations::Annotations;
use super::api::{Api, chain};
use crate::store::StoreError;
use crate::store::etcd::without_credentials;

/// How to use Kubernetes as the store: flanneld's flags.
#[derive(Clone, Debug)]
pub struct KubernetesOptions {
    /// `--kube-api-url`; empty where the kubeconfig or the cluster says it.
    pub api_url: String,
    /// `--kubeconfig-file`; without it and a URL, what a pod finds in its cluster.
    pub kubeconfig: Option<PathBuf>,
    /// `--kube-annotation-prefix`.
    pub annotations: Annotations,
    /// `--net-config-path`.
    pub net_config_path: PathBuf,
    /// `--set-node-network-unavailable`.
    pub sets_condition: bool,
    /// Which node this is.
    pub node: NodeName,
}

/// Which Node of the cluster is this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeName {
    /// Its name: the environment variable `NODE_NAME`.
    Known(String),
    /// That which this pod is on: `POD_NAMESPACE` and `POD_NAME`.
    OfPod {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        name: String,
    },
}

impl NodeName {
    /// What the environment says, as to flanneld.
    ///
    /// # Errors
    /// Where it says nothing.
    pub fn from_env() -> Result<Self, StoreError> {
        Self::from_variables(|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, StoreError> {
        if let Some(name) = variable("NODE_NAME") {
            return Ok(Self::Known(name));
        }
        match (variable("POD_NAMESPACE"), variable("POD_NAME")) {
            (Some(namespace), Some(name)) => Ok(Self::OfPod { namespace, name }),
            _ => Err(StoreError::Refused(
                "--kube-subnet-mgr does not know which Node this is: set the environment variable NODE_NAME, or \
                 POD_NAME and POD_NAMESPACE (by the downward API: fieldRef spec.nodeName, metadata.name and \
                 metadata.namespace)"
                    .to_owned(),
            )),
        }
    }
}

impl KubernetesOptions {
    /// The API server, which nothing is asked yet.
    pub(super) async fn api(&self) -> Result<Api, StoreError> {
        let mut config = self.config().await?;
        // Both are the watch's and the agent's own affair.
        config.default_retry = false;
        config.headers.push((
            hyper::header::USER_AGENT,
            hyper::header::HeaderValue::from_static(concat!("ovl-agent/", env!("CARGO_PKG_VERSION"))),
        ));
        if config.cluster_url.scheme_str() == Some("http") {
            // Nobody has to vouch for a server without TLS, on a machine that may know no authorities.
            config.root_cert.get_or_insert_default();
        }
        let server = without_credentials(config.cluster_url.to_string().trim_end_matches('/'));
        let client = Client::try_from(config).map_err(|error| {
            StoreError::Refused(format!("{} cannot be used: {}", self.origin(), chain(&error)))
        })?;
        Ok(Api::new(client, server))
    }

    /// As client-go's `BuildConfigFromFlags`, which flannel calls.
    async fn config(&self) -> Result<Config, StoreError> {
        let refused = |reason: String| StoreError::Refused(format!("{} {reason}", self.origin()));
        let url = if self.api_url.is_empty() {
            None
        } else {
            let url = self.api_url.parse::<hyper::Uri>().ok().filter(|url| url.host().is_some());
            let named = || {
                StoreError::Refused(format!(
                    "--kube-api-url {} is no URL; expected one like https://10.0.0.1:6443",
                    without_credentials(&self.api_url)
                ))
            };
            Some(url.ok_or_else(named)?)
        };
        match (&self.kubeconfig, url) {
            (None, None) => Config::incluster().map_err(|error| {
                refused(format!(
                    "cannot be used: {}; outside of a pod, name a --kubeconfig-file",
                    chain(&error)
                ))
            }),
            (None, Some(url)) => Ok(Config::new(url)),
            (Some(path), url) => {
                let file = Kubeconfig::read_from(path)
                    .map_err(|error| refused(format!("cannot be used: {}", chain(&error))))?;
                let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
                let mut config =
                    config.map_err(|error| refused(format!("cannot be used: {}", chain(&error))))?;
                config.cluster_url = url.unwrap_or(config.cluster_url);
                Ok(config)
            }
        }
    }

    fn origin(&self) -> String {
        match &self.kubeconfig {
            Some(path) => format!("--kubeconfig-file {}", path.display()),
            None if self.api_url.is_empty() => "the pod's own access to the cluster".to_owned(),
            None => "--kube-api-url".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_named_or_looked_up() {
        let said = |variables: &[(&str, &str)]| {
            NodeName::from_variables(|name| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        let pod = [("POD_NAME", "p"), ("POD_NAMESPACE", "s")];
        let named = said(&[pod[0], pod[1], ("NODE_NAME", "n")]).expect("named");
        assert_eq!(named, NodeName::Known("n".into()));
        let looked_up = NodeName::OfPod { namespace: "s".into(), name: "p".into() };
        assert_eq!(said(&pod).expect("a pod"), looked_up);
        let nobody = said(&pod[..1]).expect_err("half a pod").to_string();
        assert!(nobody.contains("NODE_NAME") && nobody.contains("POD_NAMESPACE"), "{nobody}");
    }
}
