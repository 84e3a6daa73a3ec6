//! What joins the cards of two guests: a bridge for each pair of them, in a network namespace.

use anyhow::Result;
use ovl_tests::netns::{Netns, unique_prefix};

use super::guest::Traits;

/// The cards of each guest, by what QEMU's virtio-net is told of them; `tests/tests/pair` knows them by their MACs.
///
/// TUN devices with virtio's headers (`vnet_hdr`) are what has offloads to offer at all: between sockets there are none.
const CARDS: [&str; 3] = [
    // What native XDP wants: the host neither aggregates nor checks.
    "guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off",
    // As they are; the driver may switch them off.
    "ctrl_guest_offloads=on",
    // It may not.
    "ctrl_guest_offloads=off",
];
/// Of each card: two for the guest's processors, and two more, which the driver wants for programs of XDP to send by.
const QUEUES: u32 = 4;
/// Two for each queue, and two.
const VECTORS: u32 = 2 * QUEUES + 2;

/// The bridges and what is plugged into them; dropping it removes them.
pub(super) struct Wire(Netns);

impl Wire {
    /// Lays it.
    pub(super) fn lay() -> Result<Self> {
        let netns = Netns::create(&unique_prefix("wire"))?;
        netns.sysctl(&["net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"])?;
        for card in 0..CARDS.len() {
            netns.ip(&format!("link add wire{card} type bridge mcast_snooping 0"))?;
            netns.ip(&format!("link set wire{card} up"))?;
            for guest in 1..=2 {
                let port = port(card, guest);
                netns.ip(&format!("tuntap add dev {port} mode tap multi_queue vnet_hdr"))?;
                netns.ip(&format!("link set {port} master wire{card} up"))?;
            }
        }
        Ok(Self(netns))
    }

    /// What guest 1 or 2 is plugged in by.
    pub(super) fn traits(&self, guest: usize) -> Traits {
        let devices = CARDS.iter().enumerate().flat_map(|(card, offloads)| {
            let port = port(card, guest);
            let tap = format!("tap,id=n{card},ifname={port},script=no,downscript=no,queues={QUEUES},vhost=off");
            let device = format!(
                "virtio-net-pci,netdev=n{card},mac=52:54:00:00:{card:02x}:{guest:02x},mq=on,vectors={VECTORS},\
                 romfile=,{offloads}"
            );
            ["-netdev".to_owned(), tap, "-device".to_owned(), device]
        });
        Traits {
            suffix: format!("-{guest}"),
            place: self.0.place(),
            devices: devices.collect(),
            variable: format!("OVL_GUEST={guest}"),
        }
    }
}

fn port(card: usize, guest: usize) -> String {
    format!("card{card}-{guest}")
}
