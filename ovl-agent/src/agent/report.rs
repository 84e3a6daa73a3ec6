//! The document behind `ovl-agent status`.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::Agent;

impl Agent {
    pub(super) fn report(&self) -> Value {
        let peers = self.view.iter().filter(|(key, _)| **key != self.held.lease.key).map(|(key, attrs)| {
            json!({
                "subnet": key.subnets().to_string(),
                "public_ip": crate::family::ByFamily::from_fn(|family| attrs.public_ip(family)).to_string(),
                "backend": attrs.backend_type,
            })
        });
        let leases =
            self.rejected_leases.iter().map(|((key, family), reason)| (format!("{family} of {key}"), reason));
        let items = self.rejected_items.iter().map(|item| (item.item.clone(), &item.reason));
        let rejected = leases.chain(items).map(|(item, reason)| json!({ "item": item, "reason": reason }));
        let (mode, counters, failure) = match &self.tables.fast_path {
            None => ("kernel", Vec::new(), None),
            Some(fast_path) => match fast_path.counters() {
                Ok(counters) => ("ebpf", counters, None),
                Err(error) => ("ebpf", Vec::new(), Some(format!("{error:#}"))),
            },
        };
        json!({
            "ready": self.subnet_env.is_some(),
            "node": { "interface": self.node.underlay.name, "public_ip": self.node.public_ips.to_string() },
            "lease": { "subnet": self.node.lease.subnets().to_string(), "expires": self.held.expires.map(rfc3339) },
            "backend": self.backend.name(),
            "mode": mode,
            "mode_reason": self.mode_reason,
            "fast_path": if mode == "ebpf" { self.args.fast_path.name() } else { "off" },
            "mtu": self.backend.mtu(&self.network, self.node.underlay.mtu),
            "store": self.store_name,
            "store_error": self.store_error,
            "config_problem": self.config_problem,
            "peers": peers.collect::<Vec<_>>(),
            "rejected": rejected.collect::<Vec<_>>(),
            "counters": counters,
            "last_error": self.errors.first().or(failure.as_ref()),
        })
    }
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
