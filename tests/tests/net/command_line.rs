//! What the binary says and how it ends, where that is decided before a network is up.

use std::fs;

use ovl_tests::artifacts;
use ovl_tests::netns::{Netns, unique_prefix};

#[test]
fn bad_flags_end_it_with_a_status_and_the_version_is_on_standard_error() {
    let binary = artifacts::agent_binary().unwrap();
    let netns = Netns::create(&unique_prefix("flags")).unwrap();
    let table: [(&[&str], Option<&str>, i32, &str); 6] = [
        (&["-version"], None, 0, "ovl-agent 0."),
        (&["--nonsense"], None, 1, "--nonsense"),
        (&["-ip-masq", "true"], None, 1, "--ip-masq=true"),
        (&["-kube-subnet-mgr"], None, 1, "set the environment variable NODE_NAME"),
        (&[], Some("high"), 1, "environment variable FLANNELD_HEALTHZ_PORT"),
        (&["docker-opts", "-x"], None, 1, "-x"),
    ];
    for (words, port, status, expected) in table {
        let command = netns.command("timeout").arg("10").arg(&binary).args(words);
        let command = port.map_or(command.clone(), |port| command.env("FLANNELD_HEALTHZ_PORT", port));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{words:?}: {said}");
        assert!(said.contains(expected) && output.stdout.is_empty(), "{words:?}: {said}");
    }
}

#[test]
fn docker_gets_its_options_and_a_former_owners_route_is_refused() {
    let binary = artifacts::agent_binary().unwrap();
    let netns = Netns::create(&unique_prefix("docker")).unwrap();
    netns.ip("link add wan type veth peer name peer").unwrap();
    netns.ip("link set wan up").unwrap();
    netns.ip("addr add 192.0.2.1/24 dev wan").unwrap();
    netns.ip("route add 10.77.18.0/25 dev wan").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (subnet_file, output) = (folder.path().join("subnet.env"), folder.path().join("docker.env"));
    fs::write(&subnet_file, "FLANNEL_SUBNET=10.77.18.1/25\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n").unwrap();
    let expected = "DOCKER_OPTS=\" --bip=10.77.18.1/25 --ip-masq=false --mtu=1450\"\n";
    for (route, status, error) in [
        (None, 0, ""),
        (Some("route replace 10.77.18.0/25 via 192.0.2.12"), 1, "10.77.18.0/25 to 192.0.2.12"),
    ] {
        if let Some(route) = route {
            netns.ip(route).unwrap();
        }
        let command = netns.command(&binary.to_string_lossy()).arg("docker-opts").arg("-c");
        let ended = command.arg("-f").arg(&subnet_file).arg("-d").arg(&output).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(status), "{said}");
        assert!(said.contains(error), "{said}");
        assert_eq!(fs::read_to_string(&output).unwrap(), expected);
        fs::remove_file(&output).unwrap();
    }
}
