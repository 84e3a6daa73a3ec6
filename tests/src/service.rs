//! Services as kube-proxy writes them, in miniature: a cluster address and a node port that lead to pods by DNAT, with
//! masquerade by mark where the answer would not come back otherwise, and a drop of what conntrack cannot place.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use anyhow::{Context as _, Result};

use crate::dialogue::Dialogue;
use crate::node::Node;

/// Which of kube-proxy's modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// Chains of rules, one after another.
    Iptables,
    /// Verdict maps.
    Nftables,
}

/// A service of TCP and UDP at the same port, in IPv4.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name, in capitals as in chains' names.
    pub name: &'static str,
    /// Its cluster address and port.
    pub cluster: SocketAddr,
    /// Its port on every node.
    pub node_port: u16,
    /// Where it leads to.
    pub endpoints: Vec<SocketAddr>,
    /// What is kept.
    pub keeps: Keeps,
}

/// What a service keeps over the choice of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Nothing: any endpoint, and the node port masquerades.
    Nothing,
    /// The client's address at the node port (`externalTrafficPolicy: Local`); the endpoints are the node's own.
    Source,
    /// The endpoint that a client had before (`sessionAffinity: ClientIP`).
    Endpoint,
}

/// Writes the rules of all services of a node whose cluster has pods in the range `pods`.
pub fn install(node: &Node, proxy: Proxy, pods: &str, services: &[Service]) -> Result<()> {
    let (program, words, text) = match proxy {
        Proxy::Iptables => ("iptables-restore", "--noflush -w", iptables(pods, services)),
        Proxy::Nftables => ("nft", "-f -", nftables(pods, services)),
    };
    let text = text.context("write the rules")?;
    let mut writer = Dialogue::start(&node.command(program).words(words))?;
    writer.say(&text)?;
    writer.finish().with_context(|| format!("install services:\n{text}"))?;
    Ok(())
}

const PROTOCOLS: [&str; 2] = ["tcp", "udp"];

fn iptables(pods: &str, services: &[Service]) -> Result<String, fmt::Error> {
    let (mut chains, mut rules) = (String::new(), String::new());
    for (Service { name, cluster, node_port, endpoints, keeps }, protocol) in each(services) {
        let (service, external) =
            (format!("KUBE-SVC-{name}-{protocol}"), format!("KUBE-EXT-{name}-{protocol}"));
        writeln!(chains, ":{service} - [0:0]\n:{external} - [0:0]")?;
        let to_cluster =
            format!("-d {}/32 -p {protocol} -m {protocol} --dport {}", cluster.ip(), cluster.port());
        writeln!(rules, "-A KUBE-SERVICES {to_cluster} -j {service}")?;
        writeln!(rules, "-A KUBE-NODEPORTS -p {protocol} -m {protocol} --dport {node_port} -j {external}")?;
        if *keeps != Keeps::Source {
            writeln!(rules, "-A {external} -j KUBE-MARK-MASQ")?;
        }
        writeln!(rules, "-A {external} -j {service}")?;
        writeln!(rules, "-A {service} ! -s {pods} {to_cluster} -j KUBE-MARK-MASQ")?;
        let chain = |index| format!("KUBE-SEP-{name}-{protocol}-{index}");
        let remembers = *keeps == Keeps::Endpoint;
        for index in (0..endpoints.len()).filter(|_| remembers) {
            let chain = chain(index);
            writeln!(
                rules,
                "-A {service} -m recent --rcheck --seconds 10800 --reap --name {chain} -j {chain}"
            )?;
        }
        for (index, endpoint) in endpoints.iter().enumerate() {
            let (chain, left) = (chain(index), endpoints.len() - index);
            let random = format!("-m statistic --mode random --probability 0.{:010}", 10_000_000_000 / left);
            let random = if left == 1 { "" } else { &random };
            writeln!(chains, ":{chain} - [0:0]")?;
            writeln!(rules, "-A {service} {random} -j {chain}")?;
            writeln!(rules, "-A {chain} -s {}/32 -j KUBE-MARK-MASQ", endpoint.ip())?;
            let remember = if remembers { format!("-m recent --name {chain} --set") } else { String::new() };
            writeln!(
                rules,
                "-A {chain} -p {protocol} {remember} -m {protocol} -j DNAT --to-destination {endpoint}"
            )?;
        }
    }
    Ok(format!(
        "*filter
:KUBE-FORWARD - [0:0]
-I FORWARD 1 -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
{chains}-I PREROUTING 1 -j KUBE-SERVICES
-I OUTPUT 1 -j KUBE-SERVICES
-I POSTROUTING 1 -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
{rules}-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
"
    ))
}

fn nftables(pods: &str, services: &[Service]) -> Result<String, fmt::Error> {
    let (mut chains, mut clusters, mut ports) = (String::new(), Vec::new(), Vec::new());
    for (Service { name, cluster, node_port, endpoints, keeps }, protocol) in each(services) {
        let (service, external) =
            (format!("service-{name}-{protocol}"), format!("external-{name}-{protocol}"));
        let chain = |index| format!("endpoint-{name}-{protocol}-{index}");
        let clients = |index| format!("affinity-{name}-{protocol}-{index}");
        let mut had = String::new();
        for (index, endpoint) in endpoints.iter().enumerate() {
            let (chain, clients) = (chain(index), clients(index));
            let mut remember = String::new();
            if *keeps == Keeps::Endpoint {
                writeln!(chains, "set {clients} {{ type ipv4_addr; flags dynamic,timeout; timeout 3h; }}")?;
                write!(had, "ip saddr @{clients} goto {chain}; ")?;
                remember = format!("update @{clients} {{ ip saddr }};");
            }
            writeln!(
                chains,
                "chain {chain} {{ ip saddr {} jump mark-for-masquerade; {remember} meta l4proto {protocol} \
                 dnat to {endpoint}; }}",
                endpoint.ip()
            )?;
        }
        let choices: Vec<_> =
            (0..endpoints.len()).map(|index| format!("{index} : goto {}", chain(index))).collect();
        let choices = format!("numgen random mod {} vmap {{ {} }}", endpoints.len(), choices.join(", "));
        writeln!(
            chains,
            "chain {service} {{ ip daddr {} ip saddr != {pods} jump mark-for-masquerade; {had}{choices}; }}",
            cluster.ip()
        )?;
        let mark = if *keeps == Keeps::Source { "" } else { "jump mark-for-masquerade;" };
        writeln!(chains, "chain {external} {{ {mark} goto {service}; }}")?;
        clusters.push(format!("{} . {protocol} . {} : goto {service}", cluster.ip(), cluster.port()));
        ports.push(format!("{protocol} . {node_port} : goto {external}"));
    }
    let (clusters, ports) = (clusters.join(", "), ports.join(", "));
    Ok(format!(
        "table ip kube-proxy {{
chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}
chain masquerading {{
  meta mark and 0x4000 == 0 return
  meta mark set meta mark xor 0x4000
  masquerade fully-random
}}
{chains}
map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {clusters} }}; }}
map service-nodeports {{ type inet_proto . inet_service : verdict; elements = {{ {ports} }}; }}
chain services {{
  ip daddr . meta l4proto . th dport vmap @service-ips
  fib daddr type local meta l4proto . th dport vmap @service-nodeports
}}
chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
chain nat-output {{ type nat hook output priority -100; jump services; }}
chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}
chain filter-forward {{ type filter hook forward priority -110; ct state invalid drop; }}
}}
"
    ))
}

fn each(services: &[Service]) -> impl Iterator<Item = (&Service, &'static str)> {
    services.iter().flat_map(|service| PROTOCOLS.map(|protocol| (service, protocol)))
}
