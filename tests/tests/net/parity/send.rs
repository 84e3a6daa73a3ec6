//! Every header that a pod can send and the underlay can make of it.

use std::net::IpAddr;

use anyhow::Result;
use ovl_tests::echo::Echo;
use ovl_tests::probe::Probe;
use ovl_tests::wait::wait_for;

use crate::overlay::{Overlay, SOON, is_fast};

/// A length that tells of nothing but that packets flow.
const WARM: usize = 64;
const ECN: [u8; 4] = [0b00, 0b01, 0b10, 0b11];
/// The words of nft for these.
const ECN_NAMES: [&str; 4] = ["not-ect", "ect1", "ect0", "ce"];
const EXPEDITED: u8 = 46 << 2;

/// Datagrams to and fro until they take the path that is looked at.
pub(super) fn warm_up(overlay: &Overlay, probe: &Probe, args: &str) -> Result<()> {
    let before = overlay.fast(0)?.0;
    wait_for("the flow to be on its path", SOON, || {
        (0..20).try_for_each(|_| probe.exchange(WARM))?;
        Ok(!is_fast(args) || overlay.fast(0)?.0 > before + 20)
    })
}

/// Sends what a flow of one family can be made of, once it is on the path that is looked at.
pub(super) fn send_everything(overlay: &Overlay, to: IpAddr, backend: &str, args: &str) -> Result<()> {
    let [client, server] = [&overlay.pods[0], &overlay.pods[1]];
    let _echo = Echo::start(server.netns(), (to, 7777).into(), 1)?;
    let probe = Probe::open(client.netns(), (to, 7777).into())?;
    warm_up(overlay, &probe, args)?;
    let before = overlay.fast(0)?.0;
    for ttl in 1..=4 {
        probe.with_ttl(ttl, |probe| {
            if ttl < 3 { probe.send(100 + usize::from(ttl)) } else { probe.exchange(100 + usize::from(ttl)) }
        })?;
    }
    for tos in ECN.into_iter().flat_map(|ecn| [ecn, EXPEDITED | ecn]) {
        probe.set_tos(tos)?;
        probe.exchange(300 + usize::from(tos))?;
    }
    if backend == "vxlan" {
        congest(overlay, &probe)?;
    }
    probe.set_tos(0)?;
    let sent = overlay.fast(0)?.0 - before;
    assert!(!is_fast(args) || sent > 10, "{args}: {sent} of these on the fast path");
    probe.exchange(3000)?;
    for ttl in 1..=4 {
        let ping = format!("-n -q -c 4 -i 0.01 -W 0.2 -t {ttl} -s {} -Q 0xb8 {to}", 400 + ttl);
        client.netns().command("ping").words(&ping).output()?;
    }
    Ok(())
}

/// All that the underlay can make of ECN, on all that a pod can send.
fn congest(overlay: &Overlay, probe: &Probe) -> Result<()> {
    // Of the first node.
    let port = "port11";
    let switch = overlay.topology.switch()?;
    let nft = |script: &str| switch.command("nft").arg(script).run();
    let hook = format!("type filter hook ingress device {port} priority 0;");
    nft(&format!("add table netdev congested; add chain netdev congested out {{ {hook} }}"))?;
    for (outer, name) in ECN.into_iter().zip(ECN_NAMES) {
        nft(&format!(
            "flush chain netdev congested out; add rule netdev congested out ip ecn set {name}; \
             add rule netdev congested out ip6 ecn set {name}"
        ))?;
        for inner in ECN {
            probe.set_tos(inner)?;
            let length = 600 + usize::from(outer * 4 + inner);
            // Congestion that nobody could be told of is a loss; what is marked inside always arrives.
            if inner == 0b11 { probe.exchange(length)? } else { probe.send(length)? }
        }
    }
    nft("delete table netdev congested")?;
    Ok(())
}
