//! What the agent does once, before its loop: find its place, read the network config, take a lease, load the fast
//! path.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;
use ovl_common::{Encapsulation, Mac};
use rtnetlink::Handle;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{debug, error, info, warn};

use crate::backend::{Backend, HostGw, Ipip, IpipDevice, Udp, Vxlan};
use crate::bpf::{AttachmentTable, LoadError, ObjectSource, Pins};
use crate::cli::{self, Mode, RunArgs};
use crate::facts::Facts;
use crate::family::{ByFamily, Family};
use crate::fast_path::{FastPath, Policy};
use crate::lease::{BackendData, LeaseAttrs};
use crate::netlink::{DeviceTable, has_ip_tunnel};
use crate::network::{BackendConfig, Network};
use crate::node::Underlay;
use crate::store::{Held, Store, StoreError};

/// How long to wait before asking a store again that did not answer.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

/// What a starting agent is at, for those who ask.
#[derive(Debug)]
pub struct Progress {
    store: String,
    started: Instant,
    waiting: RefCell<String>,
}

impl Progress {
    /// A start with the store of that name.
    pub fn new(store: String) -> Self {
        Self { waiting: RefCell::new(format!("asking {store}")), store, started: Instant::now() }
    }

    /// One line.
    pub fn text(&self) -> String {
        self.waiting.borrow().clone()
    }

    /// The document behind `ovl-agent status`.
    pub fn document(&self) -> String {
        let waiting = format!("starting: {}", self.text());
        let facts = Facts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            store: self.store.clone(),
            last_error: Some(waiting.clone()),
            errors: vec![waiting],
            ..Facts::default()
        };
        serde_json::to_string(&facts).unwrap_or_default()
    }

    fn set(&self, text: &str) {
        self.waiting.replace(text.to_owned());
    }
}

/// Calls `ask` until the store answers. What trying again cannot mend is an error at once.
pub async fn insist<T>(
    what: &str,
    progress: &Progress,
    mut ask: impl AsyncFnMut() -> Result<T, StoreError>,
) -> Result<T> {
    let mut told = String::new();
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(StoreError::Unavailable(reason)) => {
                if told != reason {
                    let problem = format!("cannot {what} yet: {reason}; trying again");
                    warn!("{problem}");
                    progress.set(&problem);
                    told = reason;
                }
                tokio::time::sleep(RETRY).await;
            }
            Err(error @ (StoreError::Conflict(_) | StoreError::Refused(_))) => {
                return Err(error).with_context(|| format!("cannot {what}"));
            }
        }
    }
}

/// Reads the network config, waiting for somebody to write a good one, as flannel does: a service that ends is soon
/// not started any more, and nobody would look again when the config is put right.
pub async fn network<S: Store>(store: &S, progress: &Progress) -> Result<Network> {
    let mut told = String::new();
    loop {
        let text = insist("read the network config", progress, async || store.network_config().await).await?;
        let problem = match text.map(|text| store.parse_config(&text)) {
            Some(Ok(network)) => return Ok(network),
            Some(Err(error)) => {
                format!(
                    "the network config in {} cannot be used, waiting for a better one: {error:#}",
                    store.config_place()
                )
            }
            None => format!(
                "{} has no network config yet, waiting for one; write {}, such as \
                 {{\"Network\": \"10.42.0.0/16\", \"Backend\": {{\"Type\": \"vxlan\"}}}}",
                store.describe(),
                store.config_place()
            ),
        };
        if told != problem {
            error!("{problem}");
            progress.set(&problem);
            told = problem;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The backend of the config. A tunnel device that exists keeps its MAC, which the peers have in their tables; one that
/// does not, as after a restart of the machine, gets the one that `remembered` has.
pub async fn backend(
    handle: &Handle,
    network: &Network,
    underlay: &Underlay,
    remembered: &ByFamily<BackendData>,
    mode: Mode,
) -> Result<Backend> {
    match &network.backend {
        BackendConfig::HostGw => Ok(Backend::HostGw(HostGw)),
        BackendConfig::Udp(options) => Ok(Backend::Udp(Udp { options: options.clone() })),
        BackendConfig::Alloc => Ok(Backend::Alloc),
        BackendConfig::Ipip(options) => {
            let mut devices = ByFamily::default();
            for (family, _) in underlay.addresses.iter() {
                devices.set(family, Some(ipip_device(handle, family, mode).await?));
            }
            Ok(Backend::Ipip(Ipip { options: options.clone(), devices }))
        }
        BackendConfig::Vxlan(options) => {
            let macs = underlay.addresses.map(|_, _| Mac::default());
            let mut vxlan = Vxlan { options: options.clone(), macs, zero_checksums: true };
            for (family, name) in vxlan.device_names().iter() {
                let existing = DeviceTable::existing(handle, name).await?;
                let mac = existing.as_ref().map(|device| device.mac).filter(|mac| *mac != Mac::default());
                let before = || remembered.get(family).and_then(Vxlan::told_mac);
                vxlan.macs.set(family, Some(mac.or_else(before).unwrap_or_else(random_mac)));
                if let Some(device) = existing.filter(|_| family == Family::V6) {
                    vxlan.zero_checksums = device.zero_checksums;
                }
            }
            Ok(Backend::Vxlan(vxlan))
        }
    }
}

/// The kernel's device where there is one, else what programs can stand in for.
async fn ipip_device(handle: &Handle, family: Family, mode: Mode) -> Result<IpipDevice> {
    let (kind, module) = match family {
        Family::V4 => ("ipip", "ipip"),
        Family::V6 => ("ip6tnl", "ip6_tunnel"),
    };
    match has_ip_tunnel(handle, family).await {
        Ok(true) => Ok(IpipDevice::Kernel),
        Ok(false) if mode == Mode::Kernel => bail!(
            "this kernel has no {kind} devices, and --mode kernel has nothing else to carry IP in IP over {family}: \
             `modprobe {module}`, or let programs carry it with --mode ebpf"
        ),
        Ok(false) => {
            info!(
                "this kernel has no {kind} devices (`modprobe {module}` finds none): programs stand in for them"
            );
            Ok(IpipDevice::StandIn)
        }
        // Making the device will say what is wrong.
        Err(errno) => {
            debug!("cannot ask for {kind} devices: {}", std::io::Error::from_raw_os_error(errno));
            Ok(IpipDevice::Kernel)
        }
    }
}

/// A locally administered address of one station (IEEE 802: bit 1 of the first byte set, bit 0 clear).
fn random_mac() -> Mac {
    let mut bytes: [u8; 6] = rand::random();
    bytes[0] = (bytes[0] | 0x02) & !0x01;
    Mac(bytes)
}

/// Takes a lease: our own where we have one, the previous subnet where it is free, else any.
pub async fn lease<S: Store>(
    store: &S,
    network: &Network,
    attrs: &LeaseAttrs,
    previous: ByFamily<IpNet>,
    progress: &Progress,
) -> Result<Held> {
    insist("take a lease", progress, async || store.acquire(network, attrs, previous).await).await
}

const NOTHING_ELSE: &str =
    "this kernel has no device for IP in IP, and eBPF, which could stand in for it, does not work here";
const NEEDED_ADVICE: &str = "`modprobe ipip` (ip6_tunnel over IPv6), or choose another backend";

/// The fast path, or why there is none.
pub struct Loaded {
    /// The fast path, where it works.
    pub fast_path: Option<FastPath>,
    /// One sentence for `status`.
    pub reason: String,
}

/// The way to a fast path. Loading the programs takes longer than all the rest, and nobody needs to wait: the kernel path
/// is complete without them.
pub enum Loading {
    /// There will be none.
    None(String),
    /// A thread of its own is at it.
    Begun {
        /// The thread.
        loading: JoinHandle<Result<FastPath, LoadError>>,
        /// Whether the backend has a tunnel.
        has_tunnel: bool,
        /// Whether nothing else carries packets.
        is_needed: bool,
        /// `--fast-path off`.
        is_off: bool,
        /// `--strict`.
        is_strict: bool,
    },
}

impl Loading {
    /// Begins to load the programs, as far as `--mode` and the backend want them.
    ///
    /// # Errors
    /// Where they are not wanted and `--strict` says that this is an error.
    pub async fn begin(
        handle: &Handle,
        args: &RunArgs,
        network: &Network,
        backend: &Backend,
    ) -> Result<Self> {
        let name = network.name();
        let attachments = AttachmentTable::new(handle.clone(), args.tc_attach, args.tcx_order, &name);
        if args.mode == Mode::Kernel {
            remove_leftovers(&attachments, network).await;
            return Ok(Self::None("--mode kernel".to_owned()));
        }
        let reason = match &network.backend {
            BackendConfig::Udp(_) => Some("the udp backend carries packets in the agent, not in programs"),
            BackendConfig::Alloc => Some("the alloc backend leaves the packets to others"),
            BackendConfig::Vxlan(_) | BackendConfig::HostGw | BackendConfig::Ipip(_) => None,
        };
        if let Some(reason) = reason {
            ensure!(!args.strict, "{reason}, and --strict is set");
            remove_leftovers(&attachments, network).await;
            return Ok(Self::None(reason.to_owned()));
        }
        let source = args.bpf_object.clone().map_or(ObjectSource::Embedded, ObjectSource::File);
        let policy = policy(args);
        let encapsulation = match &network.backend {
            BackendConfig::Vxlan(_) => Encapsulation::Vxlan,
            BackendConfig::Ipip(_) => Encapsulation::Ipip,
            BackendConfig::HostGw | BackendConfig::Udp(_) | BackendConfig::Alloc => Encapsulation::None,
        };
        Ok(Self::Begun {
            loading: spawn_blocking(move || {
                FastPath::load(attachments, &source, encapsulation, policy, &name)
            }),
            has_tunnel: encapsulation != Encapsulation::None,
            is_needed: backend.needs_programs(),
            is_off: args.fast_path == cli::FastPath::Off,
            is_strict: args.strict,
        })
    }

    /// Waits for the programs and attaches the one on the underlay, which shows whether attaching works.
    ///
    /// # Errors
    /// Where they don't work and `--strict` says that this is an error.
    pub async fn finish(self, underlay: Underlay) -> Result<Loaded> {
        let (loading, has_tunnel, is_needed, is_off, is_strict) = match self {
            Self::None(reason) => return Ok(Loaded { fast_path: None, reason }),
            Self::Begun { loading, has_tunnel, is_needed, is_off, is_strict } => {
                (loading, has_tunnel, is_needed, is_off, is_strict)
            }
        };
        let started = async {
            let mut fast_path = loading.await.context("loading the programs was given up")??;
            fast_path.attach_underlay(&underlay).await?;
            anyhow::Ok(fast_path)
        };
        match started.await {
            Ok(fast_path) => {
                let mut reason = format!("programs loaded, attached by {}", fast_path.attached_by());
                if let Some(lacking) = fast_path.lacking().filter(|_| has_tunnel) {
                    ensure!(!is_needed, "{NOTHING_ELSE}: {lacking}; {NEEDED_ADVICE}");
                    reason.push_str("; tunnels on the kernel path: ");
                    reason.push_str(lacking);
                }
                if is_needed {
                    reason.push_str("; programs stand in for a tunnel device that the kernel lacks");
                }
                if is_off {
                    info!(
                        "the fast path is off: programs only count; --fast-path=verified carries pod traffic in eBPF"
                    );
                }
                Ok(Loaded { fast_path: Some(fast_path), reason })
            }
            Err(error) if is_needed => bail!("{NOTHING_ELSE}: {error:#}; {NEEDED_ADVICE}"),
            Err(error) if is_strict => bail!("eBPF does not work here and --strict is set: {error:#}"),
            Err(error) => {
                // Programs that an earlier agent left, if any, leave everything to the kernel once their deadline is
                // past.
                warn!("eBPF does not work here, the kernel path carries everything: {error:#}");
                Ok(Loaded { fast_path: None, reason: format!("{error:#}") })
            }
        }
    }
}

fn policy(args: &RunArgs) -> Policy {
    Policy {
        fast_path: args.fast_path,
        mark: args.fast_path_mark,
        verify_interval: Duration::from_secs(args.verify_interval.into()),
        source_check: args.source_check,
        max_flows: args.max_flows,
        xdp: args.xdp,
    }
}

/// Takes off what an earlier agent, which had a fast path, left to its successor.
async fn remove_leftovers(attachments: &AttachmentTable, network: &Network) {
    if let Err(error) = Pins::remove_all(&network.name()) {
        warn!("cannot remove the programs that an earlier agent left: {error:#}");
    }
    if let Err(error) = attachments.remove_leftovers().await {
        debug!("cannot look for filters that an earlier agent left: {error:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_mac_is_one_stations_own() {
        for _ in 0..1000 {
            assert_eq!(random_mac().0[0] & 0x03, 0x02);
        }
    }
}
