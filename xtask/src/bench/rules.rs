//! The firewall rules that every contender has beside those of its agents.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use ovl_tests::node::Node;

/// Kube-proxy's rule against what conntrack can make nothing of.
const INVALID: &str = "FORWARD -m conntrack --ctstate INVALID -j DROP";
/// The chain of the rules that make the way longer.
const CHAIN: &str = "OVL-BENCH";
/// What none of them fits: the range for benchmarks (RFC 2544), which nobody here has.
const NOBODY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// So many addresses are in it.
pub(super) const MOST: u32 = 1 << 17;

/// Adds kube-proxy's rule, and `more` that fit no packet and that every packet is held against.
pub(super) fn add(node: &Node, more: u32) -> Result<()> {
    let file = node.dir().join("rules");
    fs::write(&file, text(more)).with_context(|| format!("write {}", file.display()))?;
    // The shell is there for the redirection.
    let line = format!("iptables-restore --noflush < {}", file.display());
    node.command("sh").arg("-c").arg(&line).run().with_context(|| format!("add {more} firewall rules"))?;
    Ok(())
}

/// An error unless they are still in force.
pub(super) fn check(node: &Node) -> Result<()> {
    node.command("iptables")
        .words(&format!("-w -C {INVALID}"))
        .run()
        .context("find the rule against INVALID")?;
    Ok(())
}

fn text(more: u32) -> String {
    let mut text = "*filter\n".to_owned();
    let mut line = |line: String| writeln!(text, "{line}").unwrap_or_default();
    if more > 0 {
        line(format!(":{CHAIN} - [0:0]"));
        for number in 0..more {
            let address = Ipv4Addr::from_bits(NOBODY.to_bits() + number);
            line(format!("-A {CHAIN} -s {address}/32 -j DROP"));
        }
        line(format!("-I FORWARD -j {CHAIN}"));
    }
    line(format!("-I {INVALID}"));
    line("COMMIT".to_owned());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_one_transaction() {
        assert_eq!(text(0), "*filter\n-I FORWARD -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n");
        let some = text(1000);
        assert_eq!(some.matches("-A OVL-BENCH").count(), 1000);
        assert!(
            some.contains("-A OVL-BENCH -s 198.18.3.231/32 -j DROP\n-I FORWARD -j OVL-BENCH\n"),
            "{some}"
        );
    }
}
