//! What a peer's lease makes the kernel say.

use super::monitor::Mark;
use crate::overlay::Backend;
use crate::peer::{End, Peer};

/// Whether `line`, of the kernel, is a route to a peer. It says nothing of marks, for agents may have several.
pub(super) fn is_route(line: &str) -> bool {
    ["10.", "fd42:"].iter().any(|range| line.starts_with(range)) && line.contains(" via ")
}

impl Peer {
    /// Its key in etcd.
    pub(super) fn etcd_key(self) -> String {
        format!("/coreos.com/network/{}", self.key())
    }

    /// What the kernel says when its rows are there.
    pub(super) fn appears(self) -> Vec<Mark> {
        self.ends()
            .into_iter()
            .flat_map(|End { subnet, bits, address, device, mac }| match self.overlay.backend {
                Backend::Vxlan => vec![
                    Mark::new(format!("{subnet} dev {device} "), mac.clone()),
                    Mark::new(format!("{address} dev {device} "), mac),
                    Mark::new(format!("{subnet}/{bits} "), device.to_owned()),
                ],
                Backend::HostGw | Backend::Ipip => {
                    vec![Mark::new(format!("{subnet}/{bits} via {address} "), String::new())]
                }
                // Its peers are no matter of the kernel.
                Backend::Udp => Vec::new(),
            })
            .collect()
    }

    /// What the kernel says when they are gone.
    pub(super) fn disappears(self) -> Vec<Mark> {
        let gone = |what: String| Mark::new(format!("Deleted {what} "), String::new());
        self.ends()
            .into_iter()
            .flat_map(|End { subnet, bits, address, device, .. }| match self.overlay.backend {
                Backend::Vxlan => vec![
                    gone(format!("{subnet}/{bits}")),
                    gone(format!("{subnet} dev {device}")),
                    gone(format!("{address} dev {device}")),
                ],
                Backend::HostGw | Backend::Ipip => vec![gone(format!("{subnet}/{bits}"))],
                Backend::Udp => Vec::new(),
            })
            .collect()
    }

    /// What the kernel says when it has moved from where it was: the new rows, and no stale one.
    pub(super) fn moves(self) -> Vec<Mark> {
        let before = Self { has_moved: !self.has_moved, ..self };
        let is_route = |mark: &Mark| mark.start.contains('/');
        match self.overlay.backend {
            Backend::HostGw | Backend::Ipip | Backend::Udp => self.appears(),
            Backend::Vxlan => {
                // The route leads to the subnet's first address as before.
                let new = self.appears().into_iter().filter(|mark| !is_route(mark));
                let stale = before.ends().into_iter().map(|End { address, device, .. }| {
                    Mark::new(format!("Deleted {address} dev {device} "), String::new())
                });
                new.chain(stale).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Overlay;

    const VXLAN: Overlay = Overlay { backend: Backend::Vxlan, ipv6: true };

    #[test]
    fn the_rows_of_a_peer_are_known_when_seen() {
        let ipv4 = Peer::new(Overlay { ipv6: false, ..VXLAN }, 1);
        let seen = [
            "10.64.1.0 dev flannel.1 lladdr 02:11:04:00:00:01 PERMANENT",
            "172.16.0.2 dev flannel.1 lladdr 02:11:04:00:00:01 PERMANENT",
            "10.64.1.0/24 via 10.64.1.0 dev flannel.1 proto 111 onlink",
        ];
        assert_eq!(seen.map(is_route), [false, false, true]);
        let marks = ipv4.appears();
        assert!(marks.iter().zip(seen).all(|(mark, line)| mark.fits(line)), "{marks:?}");
        assert!(!marks.iter().zip(seen).any(|(mark, line)| mark.fits(&format!("Deleted {line}"))));
        assert_eq!(Peer::new(VXLAN, 1).appears().len(), 6, "both families");
        let moved = Peer { has_moved: true, ..ipv4 }.moves();
        assert_eq!(moved.len(), 3);
        assert!(moved[2].fits("Deleted 172.16.0.2 dev flannel.1 lladdr 02:11:04:00:00:01 PERMANENT"));
        let routed = Peer::new(Overlay { backend: Backend::HostGw, ipv6: false }, 1);
        assert!(routed.appears()[0].fits("10.64.1.0/24 via 172.16.0.2 dev eth0 proto 111"));
        assert!(routed.disappears()[0].fits("Deleted 10.64.1.0/24 via 172.16.0.2 dev eth0 proto 111"));
    }
}
