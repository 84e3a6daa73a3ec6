//! Every map, and the packet path's view of them.

use aya_ebpf::bindings::{BPF_ANY, BPF_F_NO_PREALLOC};
use aya_ebpf::helpers::generated::{
    bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_map_lookup_elem,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use ovl_common::{
    Config, ENDPOINTS, Endpoint, FLOWS, Flow, FlowKey, IDS, IpKey, LEASES, Mac, NODES, POD_MACS, PORTS, Port,
    Program, REASONS, Reason, Remote, STATE, STATS, Stat, TRACE, TRACED, Trace, Traced,
};
use ovl_ebpf::flow::{Acceptance, Usage};
use ovl_ebpf::tables::Tables;

#[map]
static OVL_STATE: Array<Config> = Array::with_max_entries(STATE.capacity, 0);
#[map]
static OVL_LEASES: LpmTrie<IpKey, Remote> = LpmTrie::with_max_entries(LEASES.capacity, BPF_F_NO_PREALLOC);
#[map]
static OVL_NODES: HashMap<IpKey, u32> = HashMap::with_max_entries(NODES.capacity, BPF_F_NO_PREALLOC);
#[map]
static OVL_FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(FLOWS.capacity, 0);
#[map]
static OVL_TRACE: Array<Trace> = Array::with_max_entries(TRACE.capacity, 0);
#[map]
static OVL_TRACED: PerCpuArray<Traced> = PerCpuArray::with_max_entries(TRACED.capacity, 0);
#[map]
static OVL_PORTS: HashMap<u32, Port> = HashMap::with_max_entries(PORTS.capacity, 0);
#[map]
static OVL_POD_MACS: HashMap<u32, Mac> = HashMap::with_max_entries(POD_MACS.capacity, 0);
#[map]
static OVL_ENDPOINTS: HashMap<IpKey, Endpoint> = HashMap::with_max_entries(ENDPOINTS.capacity, 0);
#[map]
static OVL_IDS: PerCpuArray<u32> = PerCpuArray::with_max_entries(IDS.capacity, 0);
#[map]
static OVL_STATS: PerCpuArray<Stat> = PerCpuArray::with_max_entries(STATS.capacity, 0);

/// 0 where the kernel lacks `bpf_ktime_get_coarse_ns` (before 5.11). A constant to the verifier, which does not look at
/// what it guards.
#[unsafe(no_mangle)]
static OVL_COARSE: u8 = 1;

/// A key of [`OVL_LEASES`] in a place where the address is aligned: the stack has to be written so.
#[repr(C)]
struct LeaseQuery {
    reserved: u32,
    bits: u32,
    address: IpKey,
}

/// The maps behind the packet path's questions.
pub(crate) struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        OVL_STATE.get(0)
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: a plain byte. Volatile, because the loader may have put another value there.
        let is_coarse = unsafe { core::ptr::read_volatile(&raw const OVL_COARSE) } != 0;
        // SAFETY: both take no argument and only read the clock.
        if is_coarse { unsafe { bpf_ktime_get_coarse_ns() } } else { unsafe { bpf_ktime_get_ns() } }
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "an identification has 16 bits")]
    fn identifications(&self, count: u16) -> u16 {
        let Some(next) = OVL_IDS.get_ptr_mut(0) else { return 0 };
        // SAFETY: the row is this CPU's own. Should one program interrupt another there, two packets get one number.
        let next = unsafe { &mut *next };
        if *next == 0 {
            // Each CPU begins elsewhere, so that their packets to one node differ.
            // SAFETY: takes no argument.
            *next = unsafe { bpf_get_prandom_u32() };
        }
        let first = *next;
        *next = first.wrapping_add(u32::from(count));
        first as u16
    }

    #[inline(always)]
    fn remote(&self, address: IpKey) -> Option<&Remote> {
        let query = LeaseQuery { reserved: 0, bits: 128, address };
        let (map, key) = ((&raw const OVL_LEASES).cast_mut(), &raw const query.bits);
        // SAFETY: from `bits` on it is the map's key, a `struct bpf_lpm_trie_key`, and outlives the call.
        let row = unsafe { bpf_map_lookup_elem(map.cast(), key.cast()) };
        // SAFETY: null, or a row of this type, which stays mapped while the program runs; plain bytes, of which any
        // pattern is valid.
        unsafe { row.cast::<Remote>().as_ref() }
    }

    #[inline(always)]
    fn is_node(&self, address: IpKey) -> bool {
        OVL_NODES.get_ptr(address).is_some()
    }

    #[inline(always)]
    fn endpoint(&self, address: IpKey) -> Option<&Endpoint> {
        // SAFETY: plain bytes, of which any pattern is valid. A row that is replaced while we read it (the kernel
        // re-uses the memory of deleted rows) can at worst yield the row of another pod for this one packet of a
        // pod that is just going away; its address no longer matches, and its network stack drops it.
        unsafe { OVL_ENDPOINTS.get(address) }
    }

    #[inline(always)]
    fn learn_endpoint(&self, address: IpKey, endpoint: &Endpoint) -> bool {
        OVL_ENDPOINTS.insert(address, endpoint, u64::from(BPF_ANY)).is_ok()
    }

    #[inline(always)]
    fn forget_endpoint(&self, address: IpKey) {
        // Absent is as good.
        let _absent = OVL_ENDPOINTS.remove(address);
    }

    #[inline(always)]
    fn port(&self, ifindex: u32) -> Option<&Port> {
        // SAFETY: plain bytes, of which any pattern is valid; a torn row fails the comparison it is read for.
        unsafe { OVL_PORTS.get(ifindex) }
    }

    #[inline(always)]
    fn pod_mac(&self, ifindex: u32) -> Option<&Mac> {
        // SAFETY: as for `port`.
        unsafe { OVL_POD_MACS.get(ifindex) }
    }

    #[inline(always)]
    fn learn_pod_mac(&self, ifindex: u32, mac: &Mac) {
        // A full table only means that the pods on further interfaces are never learned.
        let _full = OVL_POD_MACS.insert(ifindex, mac, u64::from(BPF_ANY));
    }

    #[inline(always)]
    fn use_flow(&self, key: &FlowKey, usage: &Usage) -> Result<(), Reason> {
        let row = OVL_FLOWS.get_ptr_mut(key).ok_or(Reason::NoFlow)?;
        // SAFETY: the row stays mapped while the program runs. Another CPU may count the same flow: then a count is
        // lost. A row that is evicted and taken for another flow while we look at it costs that flow a wrong count, and
        // can at worst pass this one packet of a flow that was accepted a moment ago.
        let flow = unsafe { &mut *row };
        usage.check(flow)?;
        usage.count(flow);
        Ok(())
    }

    #[inline(always)]
    fn check_flow(&self, key: &FlowKey, usage: &Usage) -> Result<(), Reason> {
        // SAFETY: plain bytes, of which any pattern is valid; what an eviction can do is as for `use_flow`.
        usage.check(unsafe { OVL_FLOWS.get(key) }.ok_or(Reason::NoFlow)?)
    }

    #[inline(always)]
    fn accept_flow(&self, key: &FlowKey, acceptance: &Acceptance) -> Reason {
        if let Some(row) = OVL_FLOWS.get_ptr_mut(key) {
            // SAFETY: the row stays mapped while the program runs. To write it in place costs a tenth of taking another one
            // from the map's free ones. Readers on other CPUs may see some of its fields before others: for this one
            // packet, and of this very flow.
            let reason = acceptance.note(unsafe { &mut *row });
            if reason != Reason::Verified || OVL_FLOWS.get_ptr(key).is_some_and(|now| core::ptr::eq(now, row))
            {
                return reason;
            }
            // Evicted just now, and perhaps another flow's: that one shall ask netfilter again.
            // SAFETY: as above.
            unsafe { ((*row).out.until, (*row).into.until) = (0, 0) };
        }
        let mut flow = Flow::default();
        let reason = acceptance.note(&mut flow);
        if OVL_FLOWS.insert(key, flow, u64::from(BPF_ANY)).is_ok() { reason } else { Reason::Full }
    }

    #[inline(always)]
    fn close_flow(&self, key: &FlowKey, tick: u32) {
        let Some(row) = OVL_FLOWS.get_ptr_mut(key) else { return };
        // SAFETY: as for `use_flow`. A row that has become another flow's meanwhile has that one ask netfilter again.
        unsafe { &mut *row }.close(tick);
    }
}

/// Adds one packet to a program's counter for a reason.
#[inline(always)]
pub(crate) fn count(program: Program, reason: Reason, bytes: usize) {
    let row = program as u32 * REASONS + reason as u32;
    if let Some(stat) = OVL_STATS.get_ptr_mut(row) {
        // SAFETY: the row is this CPU's own, and a program is not interrupted by another run of itself on it.
        unsafe {
            (*stat).packets += 1;
            (*stat).bytes += bytes as u64;
        }
    }
}

/// What somebody wants to see, if anybody does.
#[inline(always)]
pub(crate) fn trace() -> Option<&'static Trace> {
    OVL_TRACE.get(0).filter(|trace| trace.until != 0)
}

/// What this CPU has shown.
#[inline(always)]
pub(crate) fn traced() -> Option<&'static mut Traced> {
    // SAFETY: the row is this CPU's own, and a program is not interrupted by another run of itself on it; each caller
    // lets go of it before the next one asks.
    OVL_TRACED.get_ptr_mut(0).map(|row| unsafe { &mut *row })
}
