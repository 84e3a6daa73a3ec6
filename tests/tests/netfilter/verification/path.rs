//! A client and a server with a router between them, which forwards and tracks connections as a node does.

use std::net::IpAddr;

use ovl_tests::background::Background;
use ovl_tests::dialogue::Dialogue;
use ovl_tests::netns::{self, Netns};
use ovl_tests::wait::wait_for;

use crate::SOON;

/// Inside the overlay.
pub(crate) const CLIENT: [&str; 2] = ["10.42.1.2", "fd42:0:0:1::2"];
pub(crate) const SERVER: [&str; 2] = ["10.42.2.2", "fd42:0:0:2::2"];
/// The server's addresses outside of it.
pub(crate) const OUTSIDE: [&str; 2] = ["198.51.100.2", "2001:db8:64::2"];

/// The three namespaces.
pub(crate) struct Way {
    pub(crate) client: Netns,
    pub(crate) router: Netns,
    pub(crate) server: Netns,
}

impl Way {
    pub(crate) fn new() -> Self {
        netns::sweep_stale().unwrap();
        let prefix = netns::unique_prefix("way");
        let [client, router, server] =
            ["client", "router", "server"].map(|name| Netns::create(&format!("{prefix}-{name}")).unwrap());
        router.sysctl(&["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]).unwrap();
        let way = Self { client, router, server };
        way.plug(&way.client, "client", ["10.42.1.1/24", "fd42:0:0:1::1/64"], CLIENT);
        way.plug(&way.server, "server", ["10.42.2.1/24", "fd42:0:0:2::1/64"], SERVER);
        for (outside, server) in OUTSIDE.iter().zip(SERVER) {
            way.server.ip(&format!("address add {outside} dev lo")).unwrap();
            way.router.ip(&format!("route add {outside} via {server}")).unwrap();
        }
        way
    }

    fn plug(&self, host: &Netns, name: &str, gateways: [&str; 2], addresses: [&str; 2]) {
        self.router.ip(&format!("link add {name} type veth peer name eth0 netns {}", host.name())).unwrap();
        self.router.ip(&format!("link set {name} up")).unwrap();
        host.ip("link set eth0 up").unwrap();
        for (gateway, address) in gateways.into_iter().zip(addresses) {
            let (gateway_address, length) = gateway.split_once('/').unwrap();
            let nodad = if address.contains(':') { "nodad" } else { "" };
            self.router.ip(&format!("address add {gateway} dev {name} {nodad}")).unwrap();
            host.ip(&format!("address add {address}/{length} dev eth0 {nodad}")).unwrap();
            host.ip(&format!("route add default via {gateway_address}")).unwrap();
        }
    }

    /// Runs a script on the router.
    pub(crate) fn sh(&self, script: &str) -> String {
        self.router.command("sh").args(["-e", "-c", script]).run().unwrap()
    }

    /// Runs `work` on a thread in the router.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.router.inside(work).unwrap()
    }

    /// Starts a server that sends back what it gets, on a TCP port of all addresses.
    pub(crate) fn serve(&self, port: u16) -> Background {
        let command =
            self.server.command("socat").arg(format!("TCP6-LISTEN:{port},fork,reuseaddr")).arg("PIPE");
        let server = Background::start_unnamed(&command).unwrap();
        wait_for_listener(&self.server, port);
        server
    }

    /// Connects from the client's `source_port`, and sees that an answer comes.
    pub(crate) fn connect(&self, server: &str, port: u16, source_port: u16) -> Dialogue {
        let to = format!("TCP:{}:{port},sourceport={source_port},reuseaddr", in_url(server));
        let mut connection = Dialogue::start(&self.client.command("socat").arg("-").arg(to)).unwrap();
        connection.say("hello\n").unwrap();
        connection.hear("hello").unwrap();
        connection
    }
}

/// Waits until somebody listens on the TCP port.
pub(crate) fn wait_for_listener(netns: &Netns, port: u16) {
    let listening = || Ok(!netns.command("ss").words(&format!("-Hltn sport = {port}")).run()?.is_empty());
    wait_for(&format!("a listener on port {port}"), SOON, listening).unwrap();
}

/// An address as it stands before a colon and a port.
pub(crate) fn in_url(address: &str) -> String {
    match address.parse().unwrap() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}
