//! The options of `run`: flanneld's flags under their names and with their defaults (FLANNEL.md section 1), and ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::go::integer;
use super::value::{
    FastPath, Maybe, Mode, Secret, SourceCheck, StoreArg, UnderlayFamily, Xdp, listen_ip, listen_port, mark,
    unless_empty,
};
use crate::bpf::{TcAttach, TcxOrder};
use crate::store::etcd::EtcdOptions;
use crate::store::kubernetes::{Annotations, KubernetesOptions, NodeName};

/// The heading of the flags that only the etcd store has.
pub(super) const ETCD: &str = "Store: etcd";
/// The heading of the flags that only the Kubernetes store has.
pub(super) const KUBERNETES: &str = "Store: Kubernetes";

/// Options of `run`.
#[expect(clippy::struct_excessive_bools, reason = "they are flanneld's flags, one field each")]
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Who moves the packets.
    #[arg(long, value_enum, default_value = "auto", help_heading = "Data plane")]
    pub mode: Mode,
    /// Exit instead of falling back to the kernel path where --mode asks for eBPF and it does not work.
    #[arg(long, help_heading = "Data plane")]
    pub strict: bool,
    /// When packets may take the fast path. `verified`: once netfilter has accepted their flow in both directions, so that
    /// firewall rules, network policies and services keep their meaning. `always` skips netfilter: for clusters without
    /// policies and services. `off`: never, the programs only count.
    #[arg(long, value_enum, default_value = "verified", help_heading = "Data plane")]
    pub fast_path: FastPath,
    /// Seconds after which a flow on the fast path asks netfilter again. What nftables reports takes effect at once; this
    /// is for the rest: legacy iptables, ipsets, conntrack entries.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "10",
        value_parser = |text: &str| integer::<u32>(text, 1..=3600),
        help_heading = "Data plane"
    )]
    pub verify_interval: u32,
    /// The bit of packets' marks that says that netfilter has accepted them. Nobody else may use it.
    #[arg(long, value_name = "BIT", default_value = "0x2000", value_parser = mark, help_heading = "Data plane")]
    pub fast_path_mark: u32,
    /// Most flows on the fast path; about 200 bytes of kernel memory each. Those beyond push out the ones that have
    /// been idle for longest, which only means that they ask netfilter again.
    #[arg(
        long,
        value_name = "FLOWS",
        default_value = "262144",
        value_parser = |text: &str| integer::<u32>(text, 16..=16_777_216),
        help_heading = "Data plane"
    )]
    pub max_flows: u32,
    /// What becomes of packets whose source is not what it should be. `loose` drops tunnel packets that come from no node
    /// and packets with the address of another node's pod, `strict` besides everything that is not from the sender's own
    /// subnet, such as clients of a NodePort that are not translated; `off` leaves them all to the kernel.
    #[arg(long, value_enum, default_value = "loose", help_heading = "Data plane")]
    pub source_check: SourceCheck,
    /// The bridge whose ports are the pods.
    #[arg(long, value_name = "NAME", default_value = "cni0", help_heading = "Data plane")]
    pub pod_bridge: String,
    /// Pods' host-side interfaces where they are no ports of a bridge: a regular expression for their names.
    #[arg(
        long,
        value_name = "REGEX",
        default_value = "",
        value_parser = unless_empty::<String>,
        help_heading = "Data plane"
    )]
    pub pod_interface_regex: Maybe<String>,
    /// How to attach the programs.
    #[arg(long, value_enum, default_value = "auto", help_heading = "Data plane")]
    pub tc_attach: TcAttach,
    /// Whether other programs on the same interface see packets before ours, which is `last`, or after, which is `first`.
    /// For tcx links; clsact filters have priority 111.
    #[arg(long, value_enum, default_value = "last", help_heading = "Data plane")]
    pub tcx_order: TcxOrder,
    /// Strip tunnels by XDP on the underlay device, before the kernel aggregates what comes in (GRO), besides at tc. `native`:
    /// by the device's driver, which may take its link down for a moment. `auto`: so where its driver and settings are known
    /// to gain by it, else not at all. `skb`: generic XDP, which is slower than none; for tests. What cannot be had is left
    /// out, and `ovl-agent status` says why.
    #[arg(long, value_enum, default_value = "off", help_heading = "Data plane")]
    pub xdp: Xdp,
    /// Load the programs from this file instead of from this binary.
    #[arg(long, value_name = "FILE", default_value = "", value_parser = unless_empty::<PathBuf>, help_heading = "Data plane")]
    pub bpf_object: Maybe<PathBuf>,

    /// Where the leases live: `dir:PATH` for a directory on this machine. Without it, etcd.
    #[arg(long, value_name = "STORE", default_value = "", value_parser = unless_empty::<StoreArg>, help_heading = "Store")]
    pub store: Maybe<StoreArg>,
    /// Renew the lease so many minutes before it expires, 1 to 1439.
    #[arg(
        long,
        value_name = "MINUTES",
        default_value = "60",
        value_parser = |text: &str| integer::<u32>(text, 1..=1439),
        help_heading = "Store"
    )]
    pub subnet_lease_renew_margin: u32,

    /// Comma-separated etcd URLs.
    #[arg(
        long,
        value_name = "URLS",
        action = ArgAction::Set,
        value_delimiter = ',',
        default_value = "http://127.0.0.1:4001,http://127.0.0.1:2379",
        help_heading = ETCD
    )]
    pub etcd_endpoints: Vec<String>,
    /// Prefix of the network's keys in etcd.
    #[arg(long, value_name = "PREFIX", default_value = "/coreos.com/network", help_heading = ETCD)]
    pub etcd_prefix: String,
    /// The client's private key, a PEM file; goes with --etcd-certfile.
    #[arg(long, value_name = "FILE", default_value = "", value_parser = unless_empty::<PathBuf>, help_heading = ETCD)]
    pub etcd_keyfile: Maybe<PathBuf>,
    /// The client's certificate, a PEM file; goes with --etcd-keyfile.
    #[arg(long, value_name = "FILE", default_value = "", value_parser = unless_empty::<PathBuf>, help_heading = ETCD)]
    pub etcd_certfile: Maybe<PathBuf>,
    /// The authorities that etcd's certificate is checked against, a PEM file.
    #[arg(long, value_name = "FILE", default_value = "", value_parser = unless_empty::<PathBuf>, help_heading = ETCD)]
    pub etcd_cafile: Maybe<PathBuf>,
    /// User of etcd; goes with the password.
    #[arg(long, value_name = "NAME", default_value = "", value_parser = unless_empty::<String>, help_heading = ETCD)]
    pub etcd_username: Maybe<String>,
    /// Password of --etcd-username. `ps` shows it to every user of this machine; the environment variable
    /// FLANNELD_ETCD_PASSWORD is better.
    #[arg(long, value_name = "PASSWORD", default_value = "", value_parser = unless_empty::<Secret>, help_heading = ETCD)]
    pub etcd_password: Maybe<Secret>,

    /// Use the Kubernetes API instead of etcd: a node's lease is its podCIDR, and stands in the annotations of its Node.
    /// Which Node that is say the environment variables NODE_NAME, or POD_NAME and POD_NAMESPACE.
    #[arg(long, help_heading = KUBERNETES)]
    pub kube_subnet_mgr: bool,
    /// URL of the API server, where it is another than the kubeconfig's.
    #[arg(long, value_name = "URL", default_value = "", help_heading = KUBERNETES)]
    pub kube_api_url: String,
    /// What the names of the nodes' annotations begin with: a domain, and perhaps / and a name.
    #[arg(long, value_name = "PREFIX", default_value = "flannel.alpha.coreos.com", help_heading = KUBERNETES)]
    pub kube_annotation_prefix: String,
    /// How to reach and to convince the API server: a kubeconfig. Without it and a URL, what a pod finds in its cluster.
    #[arg(long, value_name = "FILE", default_value = "", value_parser = unless_empty::<PathBuf>, help_heading = KUBERNETES)]
    pub kubeconfig_file: Maybe<PathBuf>,
    /// The network config. It is read again when it changes.
    #[arg(long, value_name = "FILE", default_value = "/etc/kube-flannel/net-conf.json", help_heading = KUBERNETES)]
    pub net_config_path: PathBuf,
    /// Set the node's condition NetworkUnavailable: to false when the network is up, to true while it is broken.
    #[arg(long, default_value = "true", help_heading = KUBERNETES)]
    pub set_node_network_unavailable: bool,

    /// Interface of the underlay, by name or by one of its addresses. Can be repeated, the first that is there is
    /// taken. Without it, the one that has --public-ip, else the one of the default route.
    #[arg(long, value_name = "NAME|IP", help_heading = "Node")]
    pub iface: Vec<String>,
    /// The same by a regular expression, which is tried on the interfaces' addresses, then on their names. Can be
    /// repeated; comes after --iface.
    #[arg(long, value_name = "REGEX", help_heading = "Node")]
    pub iface_regex: Vec<String>,
    /// The interface that the kernel would use to reach this address; comes after --iface-regex.
    #[arg(long, value_name = "IP", default_value = "", value_parser = unless_empty::<IpAddr>, help_heading = "Node")]
    pub iface_can_reach: Maybe<IpAddr>,
    /// The IP families that nodes use between them. `same`: those of the network, each inside its own, as flanneld has it.
    /// `ipv4`, `ipv6`: this one alone, which carries both families of pods. `both`: pods' packets travel in their own
    /// family to nodes that have it, in the other to those that have only that one.
    #[arg(long, value_enum, default_value = "same", help_heading = "Node")]
    pub underlay_family: UnderlayFamily,
    /// IPv4 address that the other nodes send to. Without it, the interface's.
    #[arg(long, value_name = "IP", default_value = "", value_parser = unless_empty::<Ipv4Addr>, help_heading = "Node")]
    pub public_ip: Maybe<Ipv4Addr>,
    /// IPv6 address that the other nodes send to. Without it, the interface's.
    #[arg(long, value_name = "IP", default_value = "", value_parser = unless_empty::<Ipv6Addr>, help_heading = "Node")]
    pub public_ipv6: Maybe<Ipv6Addr>,
    /// File to write the node's subnet to, for the CNI plugin.
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_SUBNET_FILE, help_heading = "Node")]
    pub subnet_file: PathBuf,
    /// File to write the node's CNI configuration to, such as /etc/cni/net.d/10-flannel.conflist, once the node is ready:
    /// pods by the plugins bridge, host-local and portmap, without flannel's own. Without it, that is left to the CNI
    /// plugin and the subnet file.
    #[arg(long, value_name = "FILE", default_value = "", value_parser = unless_empty::<PathBuf>, help_heading = "Node")]
    pub cni_conf: Maybe<PathBuf>,
    /// Socket that `ovl-agent status` asks.
    #[arg(long, value_name = "PATH", default_value = super::DEFAULT_SOCKET, help_heading = "Node")]
    pub socket: PathBuf,

    /// Masquerade what leaves the overlay's range.
    #[arg(long, help_heading = "Firewall")]
    pub ip_masq: bool,
    /// Masquerade without fully random source ports.
    #[arg(long, help_heading = "Firewall")]
    pub ip_masq_fully_random_disable: bool,
    /// Seconds between two looks at the firewall's rules and at the blackhole route.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "5",
        value_parser = |text: &str| integer::<u64>(text, 1..=i64::from(u32::MAX)),
        help_heading = "Firewall"
    )]
    pub iptables_resync: u64,
    /// Accept forwarded packets from and to the overlay's range.
    #[arg(long, default_value = "true", help_heading = "Firewall")]
    pub iptables_forward_rules: bool,
    /// Keep a blackhole route for this node's subnet, which catches packets to pods that are gone.
    #[arg(long, help_heading = "Firewall")]
    pub ip_blackhole_route: bool,

    /// Address to answer health checks on; empty is all of IPv4 and IPv6.
    #[arg(long, value_name = "IP", default_value = "0.0.0.0", value_parser = listen_ip, help_heading = "Health")]
    pub healthz_ip: IpAddr,
    /// Port to answer health checks on; 0, or less, is none.
    #[arg(long, value_name = "PORT", default_value = "0", value_parser = listen_port, help_heading = "Health")]
    pub healthz_port: u16,

    /// How much to log: 0 what happens, 1 to 3 every row that is written, 4 and more everything. RUST_LOG, where it
    /// is set, wins.
    #[arg(
        long = "v",
        value_name = "LEVEL",
        default_value = "0",
        allow_hyphen_values = true,
        help_heading = "Logging"
    )]
    pub v: i32,
    /// Verbosity by Go source file; flanneld's only.
    #[arg(long, value_name = "PATTERN=N,...", default_value = "", help_heading = "Logging")]
    pub vmodule: String,
    /// Stack traces by Go source line; flanneld's only.
    #[arg(long = "log_backtrace_at", value_name = "FILE:LINE", default_value = "", help_heading = "Logging")]
    pub log_backtrace_at: String,

    /// Print the version on standard error, as flanneld does, and exit.
    #[arg(long)]
    pub version: bool,
}

impl RunArgs {
    /// How to reach etcd.
    pub fn etcd_options(&self) -> EtcdOptions {
        EtcdOptions {
            endpoints: self.etcd_endpoints.clone(),
            prefix: self.etcd_prefix.clone(),
            keyfile: self.etcd_keyfile.clone(),
            certfile: self.etcd_certfile.clone(),
            cafile: self.etcd_cafile.clone(),
            username: self.etcd_username.clone(),
            password: self.etcd_password.as_ref().map(|password| password.reveal().to_owned()),
        }
    }

    /// How to use Kubernetes as the store, for this node.
    ///
    /// # Errors
    /// Where --kube-annotation-prefix is none.
    pub fn kubernetes_options(&self, node: NodeName) -> Result<KubernetesOptions, String> {
        let prefix = &self.kube_annotation_prefix;
        let annotations: Annotations =
            prefix.parse().map_err(|problem| format!("--kube-annotation-prefix '{prefix}': {problem}"))?;
        Ok(KubernetesOptions {
            api_url: self.kube_api_url.clone(),
            kubeconfig: self.kubeconfig_file.clone(),
            annotations,
            net_config_path: self.net_config_path.clone(),
            sets_condition: self.set_node_network_unavailable,
            node,
        })
    }

    /// What to log where RUST_LOG says nothing, in its terms. The libraries' chatter helps nobody; kube's is about failures
    /// that we tell of ourselves.
    pub fn log_filter(&self) -> &'static str {
        match self.v {
            ..=0 => "info,kube_client=off",
            1..=3 => "info,kube_client=off,ovl_agent=debug",
            4.. => "info,kube_client=off,ovl_agent=trace",
        }
    }
}
