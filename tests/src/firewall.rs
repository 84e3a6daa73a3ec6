//! Firewall rules of a node as other tools write them: by iptables over nftables, by legacy iptables, of whose changes
//! the kernel tells nobody, and by nft.

use std::net::IpAddr;

use anyhow::Result;

use crate::node::Node;

/// What writes the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `iptables-nft`.
    Iptables,
    /// `iptables-legacy`.
    Legacy,
    /// `nft`, in a table of its own.
    Nft,
}

/// The name of nft's table.
const TABLE: &str = "isolation";

/// Rules in force on a node; dropping them lifts them.
#[derive(Debug)]
pub struct Rules<'node> {
    node: &'node Node,
    /// What undoes them, line by line.
    undo: Vec<String>,
}

impl<'node> Rules<'node> {
    /// Drops what `node` would forward from an address to another, for every pair.
    pub fn drop_forwarded(node: &'node Node, tool: Tool, pairs: &[(IpAddr, IpAddr)]) -> Result<Self> {
        let mut rules = Self { node, undo: Vec::new() };
        rules.begin(tool)?;
        for (from, to) in pairs {
            rules.add(tool, *from, &Line { from, to, states: "", verdict: Verdict::Drop })?;
        }
        Ok(rules)
    }

    /// Lets `node` forward from `client` to `server` whatever it is, and back only what belongs to it, for every pair.
    pub fn allow_to_open(node: &'node Node, tool: Tool, pairs: &[(IpAddr, IpAddr)]) -> Result<Self> {
        let mut rules = Self { node, undo: Vec::new() };
        rules.begin(tool)?;
        for (client, server) in pairs {
            let lines = [
                Line { from: client, to: server, states: "new,established", verdict: Verdict::Accept },
                Line { from: server, to: client, states: "established,related", verdict: Verdict::Accept },
                Line { from: client, to: server, states: "", verdict: Verdict::Drop },
                Line { from: server, to: client, states: "", verdict: Verdict::Drop },
            ];
            // An inserted rule goes first.
            let lines: Vec<_> =
                if tool == Tool::Nft { lines.to_vec() } else { lines.into_iter().rev().collect() };
            lines.iter().try_for_each(|line| rules.add(tool, *client, line))?;
        }
        Ok(rules)
    }

    /// Drops what conntrack can make nothing of, as kube-proxy does.
    pub fn drop_invalid(node: &'node Node) -> Result<Self> {
        let mut rules = Self { node, undo: Vec::new() };
        for program in ["iptables", "ip6tables"] {
            rules.insert(program, "-m conntrack --ctstate INVALID -j DROP")?;
        }
        Ok(rules)
    }

    /// Lifts them.
    pub fn lift(mut self) -> Result<()> {
        self.undo.drain(..).rev().try_for_each(|line| run(self.node, &line))
    }

    fn begin(&mut self, tool: Tool) -> Result<()> {
        if tool != Tool::Nft {
            return Ok(());
        }
        self.undo.push(format!("nft delete table inet {TABLE}"));
        run(self.node, &format!("nft add table inet {TABLE}"))?;
        let hook = "{ type filter hook forward priority filter ; }";
        run(self.node, &format!("nft add chain inet {TABLE} forward {hook}"))
    }

    fn add(&mut self, tool: Tool, family: IpAddr, line: &Line<'_>) -> Result<()> {
        let (Line { from, to, states, .. }, six) = (line, if family.is_ipv4() { "" } else { "6" });
        let verdict = line.verdict.word();
        if tool == Tool::Nft {
            let (ip, states) = (if six.is_empty() { "ip" } else { "ip6" }, words("ct state ", states));
            let rule = format!("{ip} saddr {from} {ip} daddr {to} {states} {verdict}");
            return run(self.node, &format!("nft add rule inet {TABLE} forward {rule}"));
        }
        let program = format!("ip{six}tables{}", if tool == Tool::Legacy { "-legacy" } else { "" });
        let states = words("-m conntrack --ctstate ", &states.to_uppercase());
        self.insert(&program, &format!("-s {from} -d {to} {states} -j {}", verdict.to_uppercase()))
    }

    fn insert(&mut self, program: &str, rule: &str) -> Result<()> {
        // In whatever order two tools write, nobody fails for the lock of the other.
        run(self.node, &format!("{program} -w -I FORWARD {rule}"))?;
        self.undo.push(format!("{program} -w -D FORWARD {rule}"));
        Ok(())
    }
}

impl Drop for Rules<'_> {
    fn drop(&mut self) {
        for line in self.undo.drain(..).rev() {
            if let Err(error) = run(self.node, &line) {
                eprintln!("could not lift a rule: {error:#}");
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Line<'a> {
    from: &'a IpAddr,
    to: &'a IpAddr,
    /// Conntrack's, with commas between; empty for all.
    states: &'a str,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug)]
enum Verdict {
    Accept,
    Drop,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Drop => "drop",
        }
    }
}

/// `option` before `value` where there is one.
fn words(option: &str, value: &str) -> String {
    if value.is_empty() { String::new() } else { format!("{option}{value}") }
}

fn run(node: &Node, line: &str) -> Result<()> {
    let (program, words) = line.split_once(' ').unwrap_or((line, ""));
    node.command(program).words(words).run()?;
    Ok(())
}
