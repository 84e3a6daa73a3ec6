//! Where the jump into our chain stands among other people's rules in FORWARD, and that it stays there.

use ovl_agent::firewall::Mode;

use super::assert_at_rest;
use super::host::{Host, Variant, wanted};

const JUMP: &str = "-m comment --comment \"flanneld forward\" -j FLANNEL-FWD";

/// The rules in FORWARD, with ours as `*`.
fn forward(host: &Host, variant: Variant) -> Vec<String> {
    let lines = host.table(variant, "", "filter");
    let rules = lines.iter().filter_map(|line| line.strip_prefix("-A FORWARD "));
    rules.map(|rule| rule.replace(JUMP, "*")).collect()
}

fn look(host: &mut Host, variant: Variant, expected: &[&str]) {
    host.ensure_well(&wanted(Mode::Iptables));
    assert_eq!(forward(host, variant), expected, "{variant}");
    assert_at_rest(host, Mode::Iptables);
}

#[test]
fn after_what_was_there_before_what_refuses_all() {
    for variant in Variant::ALL {
        let mut host = Host::new();
        let tool = format!("iptables-{variant}");
        let block = "-i ens192 -j REJECT --reject-with icmp-port-unreachable";
        let shut = "-j REJECT --reject-with icmp-host-prohibited";
        let log = "-m limit --limit 5/min -j LOG --log-prefix \"no: \"";
        // As Docker leaves it.
        host.sh(&format!("{tool} -P FORWARD DROP; {tool} -N DOCKER-USER; {tool} -A FORWARD -j DOCKER-USER"));
        host.sh(&format!("{tool} -A FORWARD {block}"));
        look(&mut host, variant, &["-j DOCKER-USER", block, "*"]);
        // Somebody refuses all behind us, which is fine, and then before us, which is not.
        host.sh(&format!("{tool} -A FORWARD {shut}"));
        look(&mut host, variant, &["-j DOCKER-USER", block, "*", shut]);
        host.sh(&format!("{tool} -D FORWARD {shut}; {tool} -I FORWARD 3 {shut}; {tool} -I FORWARD 3 {log}"));
        look(&mut host, variant, &["-j DOCKER-USER", block, "*", log, shut]);
        // Policies that put themselves first stay first, and a user's own rule stays where the user put it.
        host.sh(&format!("{tool} -N cali-FORWARD; {tool} -I FORWARD -j cali-FORWARD"));
        host.sh(&format!("{tool} -I FORWARD -i ens7 -j DROP"));
        host.sh(&format!("{tool} -A FORWARD -i ens8 -j DROP"));
        let rules = [
            "-i ens7 -j DROP",
            "-j cali-FORWARD",
            "-j DOCKER-USER",
            block,
            "*",
            log,
            shut,
            "-i ens8 -j DROP",
        ];
        look(&mut host, variant, &rules);
        // Lost, and back in its place.
        host.sh(&format!("{tool} -D FORWARD 5"));
        look(&mut host, variant, &rules);
        // At start, too.
        host.end_agent();
        host.sh(&format!("{tool} -D FORWARD 5; {tool} -A FORWARD {JUMP}"));
        look(&mut host, variant, &rules);
        assert!(
            host.table(variant, "", "filter").contains(&":FORWARD DROP".to_owned()),
            "the policy is Docker's"
        );
    }
}
