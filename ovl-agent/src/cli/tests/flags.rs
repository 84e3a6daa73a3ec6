//! Every flag: its name, its default, its values, as a flag and as a variable.

use std::collections::BTreeSet;

use super::*;

/// A flag, its default, a good value, what that means (both as `Debug` shows the field) and a bad value.
struct Row {
    flag: &'static str,
    field: fn(&RunArgs) -> String,
    default: &'static str,
    good: &'static str,
    means: &'static str,
    bad: Option<&'static str>,
}

macro_rules! row {
    ($flag:literal, $field:ident, $default:literal, $good:literal => $means:literal, $bad:expr) => {
        Row {
            flag: $flag,
            field: |run| format!("{:?}", run.$field),
            default: $default,
            good: $good,
            means: $means,
            bad: $bad,
        }
    };
}

/// In the order of FLANNEL.md section 1, then ours.
const FLAGS: [Row; 50] = [
    row!("etcd-endpoints", etcd_endpoints, r#"["http://127.0.0.1:4001", "http://127.0.0.1:2379"]"#,
        "https://a:1,https://b:2" => r#"["https://a:1", "https://b:2"]"#, Some(",")),
    row!("etcd-prefix", etcd_prefix, r#""/coreos.com/network""#, "/x" => r#""/x""#, None),
    row!("etcd-keyfile", etcd_keyfile, "None", "/k" => r#"Some("/k")"#, None),
    row!("etcd-certfile", etcd_certfile, "None", "/c" => r#"Some("/c")"#, None),
    row!("etcd-cafile", etcd_cafile, "None", "/ca" => r#"Some("/ca")"#, None),
    row!("etcd-username", etcd_username, "None", "root" => r#"Some("root")"#, None),
    row!("etcd-password", etcd_password, "None", "hunter2" => "Some(***)", None),
    row!("iface", iface, "[]", "eth0,eth1" => r#"["eth0,eth1"]"#, None),
    row!("iface-regex", iface_regex, "[]", "10\\.0,x" => r#"["10\\.0,x"]"#, None),
    row!("iface-can-reach", iface_can_reach, "None", "2001:db8::1" => "Some(2001:db8::1)", Some("eth0")),
    row!("subnet-file", subnet_file, r#""/run/flannel/subnet.env""#, "/s" => r#""/s""#, None),
    row!("public-ip", public_ip, "None", "192.0.2.1" => "Some(192.0.2.1)", Some("2001:db8::1")),
    row!("public-ipv6", public_ipv6, "None", "2001:db8::1" => "Some(2001:db8::1)", Some("192.0.2.1")),
    row!("subnet-lease-renew-margin", subnet_lease_renew_margin, "60", "1439" => "1439", Some("1440")),
    row!("ip-masq", ip_masq, "false", "true" => "true", Some("yes")),
    row!("ip-masq-fully-random-disable", ip_masq_fully_random_disable, "false", "1" => "true", Some("2")),
    row!("kube-subnet-mgr", kube_subnet_mgr, "false", "true" => "true", Some("maybe")),
    row!("kube-api-url", kube_api_url, r#""""#, "https://k" => r#""https://k""#, None),
    row!("kube-annotation-prefix", kube_annotation_prefix, r#""flannel.alpha.coreos.com""#, "p" => r#""p""#, None),
    row!("kubeconfig-file", kubeconfig_file, "None", "/k" => r#"Some("/k")"#, None),
    row!("version", version, "false", "true" => "true", Some("v0.28.9")),
    row!("healthz-ip", healthz_ip, "0.0.0.0", "::1" => "::1", Some("host")),
    row!("healthz-port", healthz_port, "0", "0x1F90" => "8080", Some("65536")),
    row!("iptables-resync", iptables_resync, "5", "30" => "30", Some("0")),
    row!("iptables-forward-rules", iptables_forward_rules, "true", "F" => "false", Some("no")),
    row!("ip-blackhole-route", ip_blackhole_route, "false", "T" => "true", Some("")),
    row!("net-config-path", net_config_path, r#""/etc/kube-flannel/net-conf.json""#, "/n" => r#""/n""#, None),
    row!("set-node-network-unavailable", set_node_network_unavailable, "true", "False" => "false", Some("on")),
    row!("v", v, "0", "10" => "10", Some("high")),
    row!("vmodule", vmodule, r#""""#, "" => r#""""#, Some("main=2")),
    row!("log_backtrace_at", log_backtrace_at, r#""""#, "" => r#""""#, Some("main.go:217")),
    row!("mode", mode, "Auto", "kernel" => "Kernel", Some("fast")),
    row!("strict", strict, "false", "true" => "true", Some("very")),
    row!("fast-path", fast_path, "Verified", "always" => "Always", Some("on")),
    row!("fast-path-mark", fast_path_mark, "8192", "0x10000" => "65536", Some("0x4000")),
    row!("fast-path-mark", fast_path_mark, "8192", "1" => "1", Some("3")),
    row!("verify-interval", verify_interval, "10", "1" => "1", Some("0")),
    row!("max-flows", max_flows, "262144", "16" => "16", Some("15")),
    row!("source-check", source_check, "Loose", "strict" => "Strict", Some("hard")),
    row!("pod-bridge", pod_bridge, r#""cni0""#, "br0" => r#""br0""#, None),
    row!("pod-interface-regex", pod_interface_regex, "None", "^veth" => r#"Some("^veth")"#, None),
    row!("cni-conf", cni_conf, "None", "/c" => r#"Some("/c")"#, None),
    row!("underlay-family", underlay_family, "Same", "ipv6" => "Ipv6", Some("6")),
    row!("tc-attach", tc_attach, "Auto", "clsact" => "Clsact", Some("xdp")),
    row!("tcx-order", tcx_order, "Last", "first" => "First", Some("middle")),
    row!("xdp", xdp, "Off", "native" => "Native", Some("hardware")),
    row!("bpf-object", bpf_object, "None", "/o" => r#"Some("/o")"#, None),
    row!("store", store, "None", "dir:/x" => r#"Some(Dir("/x"))"#, Some("dir:x")),
    row!("socket", socket, r#""/run/ovl/agent.sock""#, "/s" => r#""/s""#, None),
    row!("iface-can-reach", iface_can_reach, "None", "" => "None", None),
];

/// What a flag does not work without.
fn companion(flag: &str) -> &'static [&'static str] {
    match flag {
        "etcd-keyfile" => &["--etcd-certfile=/c"],
        "etcd-certfile" => &["--etcd-keyfile=/k"],
        "etcd-username" => &["--etcd-password=p"],
        "etcd-password" => &["--etcd-username=u"],
        _ => &[],
    }
}

fn takes_no_word(flag: &str) -> bool {
    let command = command();
    let arg = command.get_arguments().find(|arg| arg.get_long() == Some(flag)).expect(flag);
    arg.get_num_args().is_some_and(|number| number.min_values() == 0)
}

#[test]
fn the_table_has_every_flag() {
    let known: BTreeSet<String> =
        command().get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned).collect();
    let tested: BTreeSet<String> =
        FLAGS.iter().map(|row| row.flag.to_owned()).chain(["help".to_owned()]).collect();
    assert_eq!(known, tested);
    let command = command();
    let named = command.find_subcommand("run").expect("there");
    assert_eq!(known, named.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned).collect());
}

#[test]
fn every_flag_has_flannels_default() {
    for row in FLAGS {
        assert_eq!((row.field)(&run(&[])), row.default, "--{}", row.flag);
        assert_eq!((row.field)(&run(&["run"])), row.default, "run --{}", row.flag);
    }
}

#[test]
fn every_flag_is_taken_in_all_of_gos_forms() {
    for Row { flag, field, good, means, .. } in FLAGS {
        let joined = [format!("-{flag}={good}"), format!("--{flag}={good}")];
        for form in &joined {
            let words = [&[form.as_str()], companion(flag)].concat();
            assert_eq!(field(&run(&words)), means, "{form}");
            assert_eq!(field(&run(&[&["run"], words.as_slice()].concat())), means, "run {form}");
        }
        for dashed in [format!("-{flag}"), format!("--{flag}")] {
            if takes_no_word(flag) {
                assert_eq!(field(&run(&[&dashed])), "true", "{dashed}");
                assert!(
                    refusal(&[&dashed, good], &[]).contains(&format!("--{flag}={good}")),
                    "{dashed} {good}"
                );
            } else {
                let words = [&[dashed.as_str(), good], companion(flag)].concat();
                assert_eq!(field(&run(&words)), means, "{dashed} {good}");
            }
        }
    }
}

#[test]
fn every_flag_but_version_is_a_variable_too() {
    for Row { flag, field, default, good, means, .. } in FLAGS {
        let variable = environment::variable_name(flag);
        let set = run_with(companion(flag), &[(&variable, good)]);
        let means = if flag == "version" { default } else { means };
        assert_eq!(field(&set), means, "{variable}={good}");
        assert_eq!(field(&run_with(companion(flag), &[(&variable, good)])), means);
    }
    assert!(run_with(&["run"], &[("FLANNELD_IP_MASQ", "1")]).ip_masq);
    assert!(
        !run_with(&["--ip-masq=false"], &[("FLANNELD_IP_MASQ", "true")]).ip_masq,
        "the command line wins"
    );
    assert!(!run_with(&[], &[("FLANNELD_IP_MASQ", "")]).ip_masq, "an empty variable is none");
    assert!(!run_with(&[], &[("FLANNELD_VERSION", "v0.28.9")]).version);
}

#[test]
fn a_bad_value_is_refused_and_its_flag_or_variable_named() {
    for Row { flag, bad, .. } in FLAGS {
        let Some(bad) = bad else { continue };
        let line = refusal(&[&format!("--{flag}={bad}")], &[]);
        assert!(line.contains(&format!("--{flag}")), "--{flag}={bad}: {line}");
        // What is wrong only together is named by the flag; an empty variable is none.
        if !["", ","].contains(&bad) && !["version", "vmodule", "log_backtrace_at"].contains(&flag) {
            let variable = environment::variable_name(flag);
            let line = refusal(&[], &[(&variable, bad)]);
            assert!(line.contains(&format!("environment variable {variable}: ")), "{variable}={bad}: {line}");
            assert!(line.contains(&format!("'{bad}'")), "{variable}={bad}: {line}");
        }
    }
}

#[test]
fn verbosity_is_klogs() {
    let (debug, trace) = (",ovl_agent=debug", ",ovl_agent=trace");
    for (level, ours) in [("-1", ""), ("0", ""), ("1", debug), ("3", debug), ("4", trace), ("10", trace)] {
        let filter = format!("info,kube_client=off{ours}");
        assert_eq!(run(&["-v", level]).log_filter(), filter, "{level}");
    }
}
