//! Where the programs run: the interfaces of pods, the overlay devices and the underlay.

use std::collections::BTreeMap;

use ovl_common::{Port, Program};
use regex_lite::Regex;

use crate::bpf::{Attachment, Hook};
use crate::family::ByFamily;
use crate::netlink::Interface;
use crate::node::Underlay;

/// What the programs are to know of the node's interfaces.
#[derive(Debug)]
pub struct Places<'a> {
    /// The pods' interfaces.
    pub pods: &'a BTreeMap<u32, PodPort>,
    /// The overlay devices.
    pub overlay: &'a ByFamily<Interface>,
    /// The underlay device.
    pub underlay: Option<&'a Interface>,
}

/// A pod's host-side interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPort {
    /// Its name.
    pub interface: String,
    /// What the programs know of it.
    pub port: Port,
}

/// The pods' interfaces: the ports of `bridge`, and what is no port of any and has a name that `pattern` matches, as CNI
/// plugins without a bridge make them. They lead into another network namespace: one whose other end is in this very
/// namespace is no pod, and the kernel would drop what is delivered to it.
pub fn pod_ports(
    interfaces: &BTreeMap<u32, Interface>,
    bridge: &str,
    pattern: Option<&Regex>,
) -> BTreeMap<u32, PodPort> {
    let bridge = interfaces.values().find(|interface| interface.name == bridge);
    // What pods send their packets to: the bridge, or the interface's own end.
    let gateway = |interface: &Interface| match interface.bridge {
        Some(master) => bridge.filter(|bridge| bridge.ifindex == master).map(|bridge| bridge.mac),
        None => pattern.filter(|pattern| pattern.is_match(&interface.name)).map(|_| interface.mac),
    };
    let veths = interfaces.values().filter(|interface| interface.veth && interface.peer_elsewhere);
    let ports = veths.filter_map(|interface| {
        let port = Port { gateway: gateway(interface)?, reserved: [0; 2] };
        Some((interface.ifindex, PodPort { interface: interface.name.clone(), port }))
    });
    ports.collect()
}

/// Where which program belongs. Peers without a tunnel are reached past the overlay device.
pub(super) fn hooks(underlay: &Underlay, is_direct: bool, places: &Places<'_>) -> BTreeMap<Hook, Attachment> {
    let mut hooks = BTreeMap::new();
    let mut add = |ifindex: u32, program: Program, interface: &str| {
        hooks.insert(Hook { ifindex, program }, Attachment::tc(interface));
    };
    add(underlay.ifindex, Program::FromWire, &underlay.name);
    if is_direct {
        add(underlay.ifindex, Program::ToOverlay, &underlay.name);
    }
    for (ifindex, pod) in places.pods {
        add(*ifindex, Program::FromPod, &pod.interface);
        add(*ifindex, Program::ToPod, &pod.interface);
    }
    for (_, device) in places.overlay.iter() {
        let hook = Hook { ifindex: device.ifindex, program: Program::ToOverlay };
        hooks.insert(hook, Attachment { ethernet: device.ethernet, ..Attachment::tc(&device.name) });
    }
    hooks
}

#[cfg(test)]
mod tests {
    use super::*;
    use ovl_common::Mac;

    use crate::backend::testing::node;

    fn interface(
        ifindex: u32,
        name: &str,
        bridge: Option<u32>,
        veth: bool,
        peer_elsewhere: bool,
    ) -> (u32, Interface) {
        let mac = Mac([2, 0, 0, 0, 0, u8::try_from(ifindex).expect("small")]);
        (
            ifindex,
            Interface {
                ifindex,
                name: name.into(),
                mtu: 1450,
                mac,
                ethernet: true,
                veth,
                peer_elsewhere,
                bridge,
            },
        )
    }

    #[test]
    fn pods_are_the_bridges_veths_that_lead_elsewhere() {
        let interfaces = BTreeMap::from([
            interface(1, "cni0", None, false, false),
            interface(2, "pod", Some(1), true, true),
            interface(3, "both-ends-here", Some(1), true, false),
            interface(4, "tap", Some(1), false, false),
            interface(5, "other-bridge", Some(9), true, true),
            interface(6, "cali6", None, true, true),
            interface(7, "eth0", None, true, true),
        ]);
        let pods = pod_ports(&interfaces, "cni0", None);
        assert_eq!(pods.keys().copied().collect::<Vec<_>>(), [2]);
        assert_eq!(pods[&2].port.gateway, Mac([2, 0, 0, 0, 0, 1]), "the bridge is the gateway");
        assert!(pod_ports(&interfaces, "cni9", None).is_empty());
        let pattern = Regex::new("^(cali|other)").expect("a pattern");
        let plain = pod_ports(&interfaces, "cni9", Some(&pattern));
        assert_eq!(plain.keys().copied().collect::<Vec<_>>(), [6]);
        assert_eq!(plain[&6].port.gateway, Mac([2, 0, 0, 0, 0, 6]), "it is its own gateway");
        let (_, device) = interface(8, "flannel.1", None, false, false);
        let overlay = ByFamily { v4: Some(device), v6: None };
        let places = Places { pods: &pods, overlay: &overlay, underlay: None };
        assert_eq!(hooks(&node().underlay, false, &places).len(), 4);
        assert_eq!(hooks(&node().underlay, true, &places).len(), 5);
    }
}
