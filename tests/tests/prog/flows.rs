//! The map of flows as the agent reads it.

use std::collections::BTreeMap;

use ovl_agent::bpf::FlowMap;
use ovl_common::wire::TCP;
use ovl_common::{Flow, FlowKey, Half, Travel};
use ovl_ebpf::testing::{PEER_POD, POD};

use crate::program::Programs;

/// More than fit into two batches, and not a multiple of one.
const FLOWS: u16 = 10_000;

fn key(port: u16) -> FlowKey {
    FlowKey {
        local: ovl_common::IpKey::from_ipv4_octets(POD),
        remote: ovl_common::IpKey::from_ipv4_octets(PEER_POD),
        local_port: port.to_be_bytes(),
        remote_port: [0, 80],
        protocol: TCP.into(),
    }
}

fn flow(port: u16) -> Flow {
    Flow { out: Half { packets: u64::from(port), ..Half::default() }, ..Flow::default() }
}

#[test]
fn every_flow_is_read_once() {
    let mut programs = Programs::load(Travel::Vxlan);
    let expected: BTreeMap<FlowKey, Flow> = (0..FLOWS).map(|port| (key(port), flow(port))).collect();
    for (key, flow) in &expected {
        programs.set_flow(key, flow);
    }
    for port in FLOWS..FLOWS + 100 {
        programs.set_flow(&key(port), &Flow { closed: 1, ..flow(port) });
    }
    let mut flows = FlowMap::behind(&programs.descriptor_of_flows()).unwrap();
    let read: Vec<(FlowKey, Flow)> = flows.rows().collect::<Result<_, _>>().unwrap();
    assert_eq!(read.len(), expected.len(), "each comes once, without those that are void");
    assert_eq!(read.into_iter().collect::<BTreeMap<_, _>>(), expected);
    let is_dead = |key: &FlowKey| u16::from_be_bytes(key.local_port) >= 7;
    assert_eq!(flows.forget(is_dead).unwrap(), usize::from(FLOWS) - 7 + 100, "the void ones, too");
    assert_eq!(programs.flows().len(), 7, "as one by one they are read");
}

/// Rows come and go as fast as they are read: reading ends all the same.
#[test]
fn reading_ends_while_flows_come_and_go() {
    let mut programs = Programs::load(Travel::Vxlan);
    for port in 0..FLOWS {
        programs.set_flow(&key(port), &flow(port));
    }
    let flows = FlowMap::behind(&programs.descriptor_of_flows()).unwrap();
    let mut read = 0;
    for row in flows.rows() {
        let (key, flow) = row.unwrap();
        programs.remove_flow(&key);
        programs.set_flow(&FlowKey { remote_port: [1, 187], ..key }, &flow);
        read += 1;
        assert!(read <= usize::from(FLOWS) * 2, "it never ends");
    }
    assert!(read >= usize::from(FLOWS), "{read}");
}
