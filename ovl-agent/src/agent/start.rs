//! What the agent finds and takes before its loop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use tracing::info;

use super::Agent;
use super::errand::Errand;
use super::health::Health;
use super::reach::Reach;
use super::rules::Rules;
use super::tally::Tally;
use crate::backend::{Backend, OnLink};
use crate::cli::RunArgs;
use crate::family::{ByFamily, Family};
use crate::instance::Instance;
use crate::netlink::{self, KernelEvents};
use crate::node::{Node, Underlay};
use crate::startup::{self, Loaded, Loading, Progress};
use crate::store::Store;
use crate::subnet_env;
use crate::sysctl;
use crate::tables::Tables;
use crate::underlay::{self, Choice, Follow};
use crate::view::View;

impl Agent {
    pub(super) async fn start<S: Store>(store: &S, args: RunArgs, progress: &Progress) -> Result<Self> {
        let netlink::Open { handle, task: connection, port } = netlink::open()?;
        let network = startup::network(store, progress).await?;
        sysctl::warn_unless_forwarding(network.pools.iter().map(|(family, _)| family));
        let pattern = |text| underlay::pattern("pod-interface-regex", text);
        let pod_interfaces = args.pod_interface_regex.as_deref().map(pattern).transpose();
        let pod_interfaces = pod_interfaces.map_err(|reason| anyhow!(reason))?;
        let remembered = async || store.remembered().await;
        let remembered =
            startup::insist("read what the store says of this node", progress, remembered).await?;
        let args = with_public_ips(args, &remembered.public_ips);
        let choice = Choice::new(&args, &network.ranges())?;
        let underlay = underlay::find(&handle, &choice).await?;
        let public_ips = public_ips(&args, &underlay);
        let backend =
            startup::backend(&handle, &network, &underlay, &remembered.backend_data, args.mode).await?;
        backend.check(&underlay, &network, &public_ips)?;
        if network.ranges().v4.is_some() && public_ips.v4.is_none() && matches!(backend, Backend::Vxlan(_)) {
            sysctl::warn_of_narrow_ways();
        }
        // The devices' names and the network's ranges are what our rows are known by.
        let devices = backend.devices();
        let rules_name = backend.rules_name(&network);
        let ranges = network.ranges();
        let mut names: Vec<_> = devices.iter().map(|(_, name)| name.clone()).collect();
        names.extend(ranges.iter().map(|(_, range)| range.to_string()));
        // Without a tunnel that is a range, and with one mostly a device.
        if !names.contains(&rules_name) {
            names.push(rules_name.clone());
        }
        let instances = names.iter().map(|name| Instance::claim(name)).collect::<Result<Vec<_>>>()?;
        let loading = Loading::begin(&handle, &args, &network, &backend).await?;
        // Before anything is taken from the store: --strict may end it here.
        let is_settled = matches!(loading, Loading::None(_));
        let mut programs = Errand::idle();
        let loaded = if args.strict || is_settled || backend.needs_programs() {
            loading.finish(underlay.clone()).await?
        } else {
            programs.begin(loading.finish(underlay.clone()));
            Loaded { fast_path: None, reason: "the programs are being loaded".to_owned() }
        };
        let attrs = backend.attrs(&public_ips);
        let identity = attrs.identity().context("this node has no public address")?;
        let claim = async || store.claim_identity(identity).await;
        startup::insist("claim this node's public IP", progress, claim).await?;
        let previous = subnet_env::previous(&args.subnet_file);
        let held = startup::lease(store, &network, &attrs, previous.subnets, progress).await?;
        let lease = held.lease.key;
        info!(
            "lease {} for {public_ips} on {} ({}, {})",
            lease.subnets(),
            underlay.name,
            backend.name(),
            store.describe()
        );
        let node = Node { underlay, public_ips, lease };
        let rules = Rules::new(&rules_name);
        let mut tables = Tables::new(&handle, &backend, &network);
        tables.fast_path = loaded.fast_path;
        Ok(Self {
            store_name: store.describe(),
            config_place: store.config_place(),
            pod_interfaces,
            shaped: BTreeSet::new(),
            args,
            handle,
            connection,
            choice,
            follow: Follow::default(),
            is_underlay_doubted: true,
            network,
            config_problem: None,
            health: Health::default(),
            backend,
            node,
            attrs,
            held,
            view: View::default(),
            tables,
            reach: Reach::default(),
            on_link: OnLink::new(),
            tally: Tally::new(),
            rules,
            events: Arc::new(KernelEvents::past(port)),
            mode_reason: loaded.reason,
            programs,
            store_error: None,
            loss: None,
            own_news: 0,
            asked_at: 0,
            term_problem: None,
            rejected_items: Vec::new(),
            rejected_leases: BTreeMap::new(),
            errors: Vec::new(),
            changes_in_a_row: 0,
            subnet_env: None,
            former_ranges: previous.networks,
            _instances: instances,
        })
    }
}

/// The arguments with an operator's addresses in the store in the place of `--public-ip` and `--public-ipv6`, as flannel
/// has it: they choose the interface, too.
fn with_public_ips(mut args: RunArgs, public_ips: &ByFamily<IpAddr>) -> RunArgs {
    for (_, public_ip) in public_ips.iter() {
        info!("the store says that this node's public IP is {public_ip}");
        match public_ip {
            IpAddr::V4(ip) => args.public_ip = Some(*ip),
            IpAddr::V6(ip) => args.public_ipv6 = Some(*ip),
        }
    }
    args
}

/// What peers send to: what the operator says, or the interface's own.
pub(super) fn public_ips(args: &RunArgs, underlay: &Underlay) -> ByFamily<IpAddr> {
    underlay.addresses.map(|family, own| match family {
        Family::V4 => args.public_ip.map_or(*own, IpAddr::V4),
        Family::V6 => args.public_ipv6.map_or(*own, IpAddr::V6),
    })
}
