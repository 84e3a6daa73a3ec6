//! One full reconcile.

use tracing::{debug, info, warn};

use super::Agent;
use crate::fast_path::pod_ports;
use crate::netlink::interfaces;
use crate::node::Underlay;
use crate::subnet_env::SubnetEnv;

impl Agent {
    /// Makes the node's tables equal to the leases. Before the first complete listing nothing is known, and nothing
    /// is done.
    pub(super) async fn pass(&mut self) {
        if !self.view.is_complete() {
            return;
        }
        let interfaces = match interfaces(&self.handle).await {
            Ok(interfaces) => interfaces,
            Err(error) => return self.remember(vec![format!("{error:#}")]),
        };
        let underlay = &self.node.underlay;
        let Some(interface) = interfaces.values().find(|interface| interface.name == underlay.name) else {
            return self
                .remember(vec![format!("the underlay interface {} is gone; waiting for it", underlay.name)]);
        };
        if (interface.ifindex, interface.mtu) != (underlay.ifindex, underlay.mtu) {
            info!("the underlay interface {} changed: MTU {}", interface.name, interface.mtu);
            let (ifindex, mtu) = (interface.ifindex, interface.mtu);
            self.node.underlay = Underlay { ifindex, mtu, ..underlay.clone() };
        }
        let desired = self.backend.desired(&self.node, self.network.ipv4, &self.view);
        for (key, reason) in &desired.rejected {
            if self.rejected_leases.get(key) != Some(reason) {
                warn!("ignoring lease {key}: {reason}");
            }
        }
        let pods = pod_ports(&interfaces, &self.args.pod_bridge);
        let tunnel = self.backend.tunnel(self.node.underlay.mtu);
        let outcome = self.tables.make(&self.node, tunnel, &desired, &pods).await;
        self.rejected_leases = desired.rejected;
        self.changes_in_a_row = if outcome.changed() { self.changes_in_a_row.saturating_add(1) } else { 0 };
        if outcome.changed() {
            info!(
                "{} rows written, {} removed; {} peers",
                outcome.put,
                outcome.deleted,
                desired.remotes.len()
            );
        } else {
            debug!("nothing to do; {} peers", desired.remotes.len());
        }
        let mut errors = outcome.errors;
        if outcome.own_rows_stand
            && let Err(error) = self.publish()
        {
            errors.push(format!("{error:#}"));
        }
        self.remember(errors);
    }

    /// Writes `subnet.env` where it has something new to say. From then on the node is ready.
    fn publish(&mut self) -> anyhow::Result<()> {
        let env = SubnetEnv {
            network: self.network.ipv4,
            subnet: self.node.subnet,
            mtu: self.backend.mtu(self.node.underlay.mtu),
        };
        if self.subnet_env.as_ref() == Some(&env) {
            return Ok(());
        }
        env.write(&self.args.subnet_file)?;
        let mode = if self.tables.fast_path.is_some() { "ebpf" } else { "kernel" };
        info!(
            "ready: subnet {}, MTU {}, mode {mode}; wrote {}",
            env.subnet,
            env.mtu,
            self.args.subnet_file.display()
        );
        self.subnet_env = Some(env);
        Ok(())
    }

    /// Says what is wrong, once for as long as it stays the same.
    fn remember(&mut self, errors: Vec<String>) {
        for error in &errors {
            if !self.errors.contains(error) {
                warn!("{error}");
            }
        }
        if errors.is_empty() && !self.errors.is_empty() {
            info!("all rows are in place again");
        }
        self.errors = errors;
    }
}
