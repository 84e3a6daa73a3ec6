//! What the node's other programs are told: the files by which pods get their network.

use std::path::Path;

use anyhow::Result;
use tracing::{info, warn};

use super::Agent;
use crate::cli::Mode;
use crate::subnet_env::SubnetEnv;
use crate::tables::Look;
use crate::{cni, file};

impl Agent {
    /// Writes `subnet.env` and the CNI configuration where they have something new to say. From then on the node is ready.
    /// Where somebody has removed or changed them, the next listing puts them right.
    ///
    /// The CNI configuration is last: with it the runtime begins to make pods.
    pub(super) fn publish(&mut self, look: Look) -> Result<()> {
        let env = SubnetEnv {
            networks: self.network.ranges(),
            subnets: *self.node.lease.subnets(),
            mtu: self.backend.mtu(&self.node.underlay),
            ip_masq: self.args.ip_masq,
        };
        let is_known = self.subnet_env.as_ref() == Some(&env);
        if is_known && look != Look::Anew {
            return Ok(());
        }
        let mut files = vec![(self.args.subnet_file.as_path(), env.render())];
        files.extend(
            self.args.cni_conf.as_deref().map(|path| (path, cni::conflist(&env, &self.args.pod_bridge))),
        );
        for (path, text) in &files {
            if !file::says(path, text) {
                if is_known {
                    warn!("{} was changed or removed; wrote it again", path.display());
                }
                file::replace(path, text)?;
            }
        }
        if !is_known {
            let is_less = self.args.mode == Mode::Ebpf && self.tables.fast_path.is_none();
            let why = if is_less { format!(" ({})", self.mode_reason) } else { String::new() };
            let (subnets, mtu, mode) = (env.subnets, env.mtu, self.mode());
            let written: Vec<_> = files.iter().map(|(path, _)| Path::display(path).to_string()).collect();
            info!("ready: subnet {subnets}, MTU {mtu}, mode {mode}{why}; wrote {}", written.join(" and "));
            self.subnet_env = Some(env);
        }
        Ok(())
    }
}
