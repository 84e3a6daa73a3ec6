//! The network config while the agent runs.

use tracing::{info, warn};

use super::Agent;
use crate::backend::Backend;
use crate::network::{BackendConfig, Change, Network};
use crate::store::{Store, StoreError};

/// The config as the store has it now, or what is wrong with it.
pub(super) type Config = Result<Option<anyhow::Result<Network>>, StoreError>;

impl Agent {
    /// Reads the config again, until the store answers.
    pub(super) async fn reread<S: Store>(store: &S) -> Config {
        loop {
            match store.network_config().await {
                Err(StoreError::Unavailable(_)) => tokio::time::sleep(crate::startup::RETRY).await,
                answer => return answer.map(|text| text.map(|text| store.parse_config(&text))),
            }
        }
    }

    /// Takes a changed config in as far as that is possible while running, and returns whether there is something to do.
    pub(super) fn take_config(&mut self, config: Config) -> bool {
        let network = match config {
            Ok(Some(Ok(network))) => network,
            Ok(Some(Err(error))) => return self.keep_config(format!("{error:#}")),
            Ok(None) => return self.keep_config("it was deleted; write it again".to_owned()),
            Err(error) => return self.keep_config(error.to_string()),
        };
        match Change::between(&self.network, &network) {
            Change::None => {
                if self.config_problem.take().is_some() {
                    info!("the network config is again the one that is in force");
                }
                false
            }
            Change::Restart(fields) => {
                let fields = fields.join(", ");
                self.keep_config(format!(
                    "{fields} changed: restart ovl-agent on every node to have it applied"
                ))
            }
            Change::Live(fields) => {
                let mut backend = self.backend.clone();
                match (&mut backend, &network.backend) {
                    (Backend::Vxlan(vxlan), BackendConfig::Vxlan(options)) => vxlan.options = options.clone(),
                    (Backend::Ipip(ipip), BackendConfig::Ipip(options)) => ipip.options = options.clone(),
                    _ => {}
                }
                if let Err(error) = backend.check(&self.node.underlay, &network, &self.node.public_ips) {
                    return self.keep_config(format!("{error:#}"));
                }
                info!("the network config changed: {} applied", fields.join(", "));
                self.config_problem = None;
                (self.backend, self.network) = (backend, network);
                true
            }
        }
    }

    fn keep_config(&mut self, problem: String) -> bool {
        warn!(
            "the network config in {} is not applied, the one before stays in force: {problem}",
            self.config_place
        );
        self.config_problem = Some(problem);
        false
    }
}
