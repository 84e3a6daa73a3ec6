//! The demo's cluster: topology and store as the options ask for.

use std::path::PathBuf;

use anyhow::Result;
use ovl_tests::agent::{AgentOptions, Store};
use ovl_tests::background::Lifetime;
use ovl_tests::etcd::Etcd;
use ovl_tests::store_dir::DirStore;
use ovl_tests::topology::Topology;

use super::state::State;
use super::{Options, StoreKind};
use crate::cluster::Cluster;
use crate::overlay::Backend;
use crate::{congestion, shell};

/// Starts everything, with the agents in the mode that was asked for.
pub(super) fn start(options: &Options, agent: PathBuf, state: &State) -> Result<Cluster> {
    let mut builder = Topology::builder("demo").prefix(state.prefix()).nodes(options.nodes.into());
    if options.store == StoreKind::Etcd {
        builder = builder.switch();
    }
    let topology = builder.build()?;
    state.note_directory(topology.dir())?;

    let lifetime = if options.keep { Lifetime::Detachable } else { Lifetime::WithHarness };
    let (store, etcd) = start_store(options, &topology, lifetime)?;
    let settings = AgentOptions::new(agent, store).lifetime(lifetime);
    let mut cluster = Cluster::new(topology, settings, etcd, 0);
    cluster.start_agents(&options.mode().strict_flags(options.backend))?;
    cluster.add_pods()?;
    congestion::set(&cluster, &congestion::choose(None)?)?;
    Ok(cluster)
}

fn start_store(options: &Options, topology: &Topology, lifetime: Lifetime) -> Result<(Store, Option<Etcd>)> {
    let config = network_config(options.backend);
    match options.store {
        StoreKind::Dir => {
            let store = DirStore::create(&topology.dir().join("store"))?;
            store.put("config", &config)?;
            Ok((Store::Dir(store.path().to_owned()), None))
        }
        StoreKind::Etcd => {
            shell::step("starting etcd");
            let etcd = Etcd::on_underlay(topology, lifetime)?;
            etcd.put("/coreos.com/network/config", &config)?;
            Ok((Store::Etcd(etcd.url().to_owned()), Some(etcd)))
        }
    }
}

fn network_config(backend: Backend) -> String {
    format!(r#"{{"Network":"10.42.0.0/16","Backend":{{"Type":"{}"}}}}"#, backend.name())
}
