//! The programs in a network namespace of the test's own, and the maps filled as a test wants them.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;
use std::time::Duration;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, PerCpuArray};
use aya::programs::{ProgramInfo, SchedClassifier, TestRun as _, TestRunOptions, TestRunResult, Xdp};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use nix::sched::{CloneFlags, unshare};
use ovl_agent::bpf::{Abi, features, program_name};
use ovl_common::{
    Config, ENDPOINTS, Encapsulation, Endpoint, FLOWS, Flow, FlowKey, IpKey, LEASES, Mac, NODES, POD_MACS,
    PORTS, Port, Prefix, Program, REASONS, Reason, Remote, STATE, STATS, Stat, TRACE, TRACED, Trace, Traced,
    Travel,
};
use ovl_ebpf::ip::Family;
use ovl_ebpf::testing::{
    Frame, GATEWAY, OVERLAY, OVERLAY6, POD, POD_PORT, POD6, UNDERLAY, UNDERLAY_MAC, VTEP, config, endpoint,
    ipip_config, nodes, remote, remote_subnets,
};

/// What programs return (`linux/pkt_cls.h`).
pub(crate) const UNSPEC: i32 = -1;
pub(crate) const SHOT: i32 = 2;
pub(crate) const REDIRECT: i32 = 7;
/// What programs of XDP return (`linux/bpf.h`).
pub(crate) const XDP_PASS: i32 = 2;

/// What fresh headroom holds.
pub(crate) const POISON: u8 = 0xa5;

/// The programs, loaded.
pub(crate) struct Programs {
    ebpf: Ebpf,
    encapsulation: Encapsulation,
}

/// What a program made of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) action: i32,
    pub(crate) bytes: Vec<u8>,
    pub(crate) reason: Reason,
}

impl Programs {
    /// Loads them once more beside those of this namespace, with maps of their own.
    pub(crate) fn once_more(travel: Travel) -> Self {
        Self::filled(Encapsulation::Vxlan, travel, Family::V4)
    }

    /// Loads them and fills the maps: one peer that is reached by `travel`, and one known pod. Moves the calling
    /// thread into a new network namespace, which has a pod port and an underlay interface.
    pub(crate) fn load(travel: Travel) -> Self {
        Self::load_over(travel, Family::V4)
    }

    /// The same with the nodes' addresses of one family.
    pub(crate) fn load_over(travel: Travel, outer: Family) -> Self {
        Self::load_of(Encapsulation::Vxlan, travel, outer)
    }

    /// The same of a network with IP in IP; where `stand_in`, the kernel has no devices for that.
    pub(crate) fn load_ipip(outer: Family, stand_in: bool) -> Self {
        let mut programs = Self::load_of(Encapsulation::Ipip, Travel::Ipip, outer);
        programs.set_config(Config { deadline: u64::MAX, ..ipip_config(stand_in) });
        programs
    }

    fn load_of(encapsulation: Encapsulation, travel: Travel, outer: Family) -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
        interface(POD_PORT, "pod", GATEWAY);
        interface(UNDERLAY, "underlay", UNDERLAY_MAC);
        interface(OVERLAY, "overlay", VTEP);
        interface(OVERLAY6, "overlay6", VTEP);
        Self::filled(encapsulation, travel, outer)
    }

    fn filled(encapsulation: Encapsulation, travel: Travel, outer: Family) -> Self {
        let object = ovl_tests::artifacts::bpf_object().expect("built by cargo xtask");
        let coarse = u8::from(features::has_coarse_clock());
        let mut ebpf = EbpfLoader::new()
            .override_global("OVL_POISON", &POISON, true)
            .override_global("OVL_COARSE", &coarse, true)
            .load_file(object)
            .expect("loads");
        let bare = program_name(Program::ToOverlay, encapsulation, false);
        for name in
            Program::TC.map(|program| program_name(program, encapsulation, true)).into_iter().chain([bare])
        {
            let found = ebpf.program_mut(name).expect("in the object");
            let classifier: &mut SchedClassifier = found.try_into().expect("a classifier");
            // Without tunnels of IP the two are one.
            if classifier.fd().is_err() {
                classifier.load().unwrap_or_else(|error| panic!("the verifier refuses {name}: {error}"));
            }
        }
        let mut programs = Self { ebpf, encapsulation };
        if Self::strips_early() {
            programs.xdp().load().expect("the verifier accepts it");
        }
        // Test runs take as long as they take: the deadline has tests of its own.
        programs.set_config(Config { deadline: u64::MAX, ..config() });
        programs.set_remote(travel, outer);
        programs.set_endpoint(POD, Some(endpoint()));
        programs.set_endpoint(POD6, Some(endpoint()));
        let mut ports: HashMap<_, u32, Abi<Port>> = programs.map(PORTS.name);
        ports.insert(POD_PORT, Abi(Port { gateway: GATEWAY, reserved: [0; 2] }), 0).expect("room");
        programs
    }

    fn map<'a, T: TryFrom<&'a mut Map, Error = aya::maps::MapError>>(&'a mut self, name: &str) -> T {
        T::try_from(self.ebpf.map_mut(name).expect("in the object")).expect("of that type")
    }

    pub(crate) fn set_config(&mut self, config: Config) {
        let mut state: Array<_, Abi<Config>> = self.map(STATE.name);
        state.set(0, Abi(config), 0).expect("row 0");
    }

    /// Fills the tables with the peer, and how it is reached.
    pub(crate) fn set_remote(&mut self, travel: Travel, outer: Family) {
        let mut leases: LpmTrie<_, Abi<IpKey>, Abi<Remote>> = self.map(LEASES.name);
        for (base, length) in remote_subnets() {
            let prefix = Prefix::new(base, length);
            let key = Key::new(prefix.bits, Abi(prefix.address));
            leases.insert(&key, Abi(remote(travel, outer)), 0).expect("room");
        }
        let mut known: HashMap<_, Abi<IpKey>, u32> = self.map(NODES.name);
        for node in nodes() {
            known.insert(Abi(IpKey::from(node)), 1, 0).expect("room");
        }
    }

    /// Adds the leases of so many nodes that send nothing.
    pub(crate) fn add_leases(&mut self, count: u32) {
        let mut leases: LpmTrie<_, Abi<IpKey>, Abi<Remote>> = self.map(LEASES.name);
        for number in 0..count {
            let subnet = Ipv4Addr::from_bits(Ipv4Addr::new(10, 64, 0, 0).to_bits() + (number << 8));
            let prefix = Prefix::new(subnet.into(), 24);
            let key = Key::new(prefix.bits, Abi(prefix.address));
            leases.insert(&key, Abi(remote(Travel::Vxlan, Family::V4)), 0).expect("room");
        }
    }

    pub(crate) fn set_endpoint(&mut self, address: impl Into<IpAddr>, endpoint: Option<Endpoint>) {
        let mut endpoints: HashMap<_, Abi<IpKey>, Abi<Endpoint>> = self.map(ENDPOINTS.name);
        let key = Abi(IpKey::from(address.into()));
        match endpoint {
            Some(endpoint) => endpoints.insert(key, Abi(endpoint), 0).expect("room"),
            None => endpoints.remove(&key).expect("there was one"),
        }
    }

    pub(crate) fn endpoint(&mut self, address: impl Into<IpAddr>) -> Option<Endpoint> {
        let endpoints: HashMap<_, Abi<IpKey>, Abi<Endpoint>> = self.map(ENDPOINTS.name);
        endpoints.get(&Abi(IpKey::from(address.into())), 0).ok().map(|Abi(endpoint)| endpoint)
    }

    pub(crate) fn pod_mac(&mut self, ifindex: u32) -> Option<Mac> {
        let macs: HashMap<_, u32, Abi<Mac>> = self.map(POD_MACS.name);
        macs.get(&ifindex, 0).ok().map(|Abi(mac)| mac)
    }

    /// Every flow.
    pub(crate) fn flows(&mut self) -> Vec<(FlowKey, Flow)> {
        let flows: HashMap<_, Abi<FlowKey>, Abi<Flow>> = self.map(FLOWS.name);
        flows.iter().map(|row| row.expect("readable")).map(|(Abi(key), Abi(flow))| (key, flow)).collect()
    }

    pub(crate) fn set_flow(&mut self, key: &FlowKey, flow: &Flow) {
        let mut flows: HashMap<_, Abi<FlowKey>, Abi<Flow>> = self.map(FLOWS.name);
        flows.insert(Abi(*key), Abi(*flow), 0).expect("room");
    }

    pub(crate) fn remove_flow(&mut self, key: &FlowKey) {
        let mut flows: HashMap<_, Abi<FlowKey>, Abi<Flow>> = self.map(FLOWS.name);
        flows.remove(&Abi(*key)).expect("it was there");
    }

    /// Another descriptor of the map of flows.
    pub(crate) fn descriptor_of_flows(&self) -> OwnedFd {
        let Some(Map::LruHashMap(map)) = self.ebpf.map(FLOWS.name) else { panic!("no such map") };
        map.fd().as_fd().try_clone_to_owned().expect("a descriptor more")
    }

    /// What the kernel says of a program.
    pub(crate) fn info(&mut self, program: Program) -> ProgramInfo {
        if program == Program::FromWireXdp {
            return self.xdp().info().expect("it is loaded");
        }
        self.classifier(program).info().expect("it is loaded")
    }

    pub(crate) fn classifier(&mut self, program: Program) -> &mut SchedClassifier {
        let found =
            self.ebpf.program_mut(program_name(program, self.encapsulation, true)).expect("in the object");
        found.try_into().expect("a classifier")
    }

    pub(crate) fn xdp(&mut self) -> &mut Xdp {
        let name = program_name(Program::FromWireXdp, self.encapsulation, true);
        let found = self.ebpf.program_mut(name).expect("in the object");
        found.try_into().expect("a program of XDP")
    }

    /// Whether this kernel (6.3 and later) turns a packet of one family into one of the other when it is stripped.
    pub(crate) fn changes_families(&mut self) -> bool {
        let flags = features::FIXED_GSO | features::NO_CSUM_RESET | features::DECAP_L3_IPV6;
        features::takes_room(&mut self.ebpf, -50, flags).expect("the probe runs")
    }

    /// Whether this kernel (5.18 and later) lets programs of XDP see packets in several buffers.
    pub(crate) fn strips_early() -> bool {
        features::has_xdp_buffers().expect("the kernel says")
    }

    /// The programs that this kernel runs.
    pub(crate) fn all() -> impl Iterator<Item = Program> {
        Program::ALL.into_iter().filter(|program| *program != Program::FromWireXdp || Self::strips_early())
    }

    /// Whether this kernel (5.13 and later) makes room for VXLAN.
    pub(crate) fn makes_room(&mut self) -> bool {
        features::takes_room(&mut self.ebpf, 50, features::ENCAP_VXLAN).expect("the probe runs")
    }

    /// What is to be shown.
    pub(crate) fn set_trace(&mut self, trace: Trace) {
        let mut row: Array<_, Abi<Trace>> = self.map(TRACE.name);
        row.set(0, Abi(trace), 0).expect("row 0");
    }

    /// How many verdicts were shown.
    pub(crate) fn shown(&mut self) -> u64 {
        let traced: PerCpuArray<_, Abi<Traced>> = self.map(TRACED.name);
        traced.get(&0, 0).expect("row 0").iter().map(|Abi(traced)| traced.events).sum()
    }

    /// What is in aya-log's ring goes to `logger`, from now on whenever it is flushed.
    pub(crate) fn log_to<T: log::Log>(&mut self, logger: T) -> EbpfLogger<T> {
        EbpfLogger::init_with_logger(&mut self.ebpf, logger).expect("the ring of the object")
    }

    /// How often a program has given a reason.
    pub(crate) fn count(&mut self, program: Program, reason: Reason) -> u64 {
        let stats: PerCpuArray<_, Abi<Stat>> = self.map(STATS.name);
        let row = program as u32 * REASONS + reason as u32;
        stats.get(&row, 0).expect("in range").iter().map(|Abi(stat)| stat.packets).sum()
    }

    /// Runs a packet through a program and returns what came out, with the one reason that was counted.
    pub(crate) fn run<K>(&mut self, program: Program, frame: &Frame<K>) -> Run {
        let before = self.counts(program);
        let (action, bytes) = self.run_uncounted(program, frame);
        let after = self.counts(program);
        let moved: Vec<Reason> = Reason::ALL
            .into_iter()
            .zip(before.iter().zip(&after))
            .filter(|(_, (b, a))| a > b)
            .map(|(r, _)| r)
            .collect();
        let [reason] = moved[..] else { panic!("{} counted {moved:?} for one packet", program.name()) };
        Run { action, bytes, reason }
    }

    /// Whether the kernel takes the packet for a test run: since 6.17 it refuses frames that end within their IP
    /// header. The library's own tests have those.
    pub(crate) fn takes<K>(frame: &Frame<K>) -> bool {
        let shortest = match frame.bytes.get(12..14) {
            Some([0x08, 0x00]) => 14 + 20,
            Some([0x86, 0xdd]) => 14 + 40,
            _ => 15,
        };
        frame.bytes.len() >= shortest
    }

    /// The same without asking for the reason, which costs a system call per counter.
    pub(crate) fn run_uncounted<K>(&mut self, program: Program, frame: &Frame<K>) -> (i32, Vec<u8>) {
        let mut out = vec![0; frame.bytes.len() + 256];
        let result = self.test(program, frame, &mut out);
        out.truncate(result.data_size_out as usize);
        (result.return_value.cast_signed(), out)
    }

    /// How long a program takes for a packet.
    pub(crate) fn time(&mut self, program: Program, frame: &Frame) -> Duration {
        self.test(program, frame, &mut []).duration
    }

    fn test<K>(&mut self, program: Program, frame: &Frame<K>, out: &mut [u8]) -> TestRunResult {
        if program == Program::FromWireXdp {
            let options = TestRunOptions {
                data_in: Some(&frame.bytes),
                data_out: (!out.is_empty()).then_some(out),
                ..TestRunOptions::default()
            };
            return self.xdp().test_run(options).expect("the kernel runs it");
        }
        let mut context = [0u8; CONTEXT];
        context[IFINDEX..IFINDEX + 4].copy_from_slice(&frame.ifindex.to_ne_bytes());
        context[MARK..MARK + 4].copy_from_slice(&frame.mark.to_ne_bytes());
        self.classifier(program)
            .test_run(TestRunOptions {
                data_in: Some(&frame.bytes),
                data_out: (!out.is_empty()).then_some(out),
                ctx_in: Some(&context),
                ..TestRunOptions::default()
            })
            .expect("the kernel runs it")
    }

    /// How often a program has given each reason.
    pub(crate) fn counts(&mut self, program: Program) -> Vec<u64> {
        Reason::ALL.into_iter().map(|reason| self.count(program, reason)).collect()
    }
}

/// Size of `struct __sk_buff`, and where its fields are (`linux/bpf.h`).
const CONTEXT: usize = 192;
const MARK: usize = 8;
const IFINDEX: usize = 40;

fn interface(index: u32, name: &str, mac: Mac) {
    let (index, mac) = (index.to_string(), mac.to_string());
    let peer = format!("{name}-peer");
    let arguments =
        ["link", "add", name, "index", &index, "address", &mac, "type", "veth", "peer", "name", &peer];
    let output = Command::new("ip").args(arguments).output().expect("ip is installed");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
