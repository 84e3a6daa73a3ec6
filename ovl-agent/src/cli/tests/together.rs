//! What flags mean together, and what the log says of them.

use super::*;

#[test]
fn what_cannot_be_honoured_is_refused() {
    let table: [(&[&str], &str); 12] = [
        (&["--iface-regex", "eth", "--iface-regex", "("], "--iface-regex '(' is no regular expression"),
        (&["--kube-subnet-mgr", "--store=dir:/x"], "--store and --kube-subnet-mgr exclude each other"),
        (
            &["--kube-subnet-mgr", "--kube-annotation-prefix=p"],
            "--kube-annotation-prefix 'p': expected a domain",
        ),
        (&["--vmodule=main=2"], "use -v or RUST_LOG"),
        (&["--log_backtrace_at=main.go:1"], "use -v or RUST_LOG"),
        (&["--etcd-username=root"], "FLANNELD_ETCD_PASSWORD or --etcd-password) is missing"),
        (&["--etcd-password=x"], "--etcd-username is missing"),
        (&["--etcd-certfile=/c"], "--etcd-keyfile is missing"),
        (&["--etcd-keyfile=/k"], "--etcd-certfile is missing"),
        (&["--etcd-endpoints="], "name at least one URL"),
        (
            &["--store", "dir:/x", "--etcd-endpoints", "http://127.0.0.1:2379"],
            "--etcd-endpoints exclude each other",
        ),
        (&["--store", "dir:/x", "--etcd-cafile", "/ca"], "--etcd-cafile exclude each other"),
    ];
    for (words, expected) in table {
        let line = refusal(words, &[]);
        assert!(line.contains(expected), "{words:?}: {line}");
    }
}

#[test]
fn authorities_alone_are_server_only_tls() {
    assert_eq!(run(&["--etcd-cafile=/ca"]).etcd_cafile, Some("/ca".into()));
    let args = run_with(&["--etcd-username=u"], &[("FLANNELD_ETCD_PASSWORD", "p")]);
    assert_eq!(args.etcd_password.as_ref().map(Secret::reveal), Some("p"));
}

#[test]
fn what_has_no_effect_is_said_once() {
    let unit = [
        "--kube-api-url=https://k",
        "--kubeconfig-file=/k",
        "--net-config-path=/etc/kube-flannel/net-conf.json",
    ];
    let invocation = parse_with(&unit, &[("FLANNELD_SET_NODE_NETWORK_UNAVAILABLE", "false")]).expect("valid");
    assert_eq!(
        invocation.warnings,
        [
            "no effect without --kube-subnet-mgr: FLANNELD_SET_NODE_NETWORK_UNAVAILABLE, --kube-api-url, --kubeconfig-file"
        ]
    );
    let invocation = parse_with(&["--store=dir:/x"], &[("FLANNELD_ETCD_PREFIX", "/y")]).expect("valid");
    assert_eq!(invocation.warnings, ["no effect with --store: FLANNELD_ETCD_PREFIX"]);
    let kubernetes = ["--kube-subnet-mgr", "--kube-api-url=https://k", "--etcd-prefix=/y"];
    let invocation = parse_words(&kubernetes).expect("valid");
    assert_eq!(invocation.warnings, ["no effect with --kube-subnet-mgr: --etcd-prefix"]);
    assert_eq!(parse_words(&["--iface=eth0"]).expect("valid").warnings, [""; 0]);
}

#[test]
fn the_log_shows_what_differs_from_the_default_and_no_secret() {
    let words = [
        "-iface=eth0",
        "-iface",
        "eth1",
        "--ip-masq",
        "--healthz-port=0",
        "--etcd-username=root",
        "--etcd-endpoints=https://me:pw@a:1/x@y,https://you:p/w@b:1,https://c:1",
        "--mode=auto",
        "--kube-api-url=http://tok@en@k",
    ];
    for words in [&words[..], &[&["run"], &words[..]].concat()] {
        let invocation = parse_with(words, &[("FLANNELD_ETCD_PASSWORD", "hunter2")]).expect("valid");
        assert_eq!(
            invocation.options,
            "--etcd-endpoints=***@b:1,https://c:1 --etcd-username=root --etcd-password=*** \
             --kube-api-url=***@k --iface=eth0 --iface=eth1 --ip-masq=true"
        );
        assert!(!format!("{invocation:?}").contains("hunter2"));
    }
    for endpoints in [
        "root:hunter2@10.0.0.1:2379",
        "https://root:hun/ter2@h",
        "https://root:hun,ter2@h",
        "https://hunter2@h@h",
    ] {
        let options = parse_words(&["--etcd-endpoints", endpoints]).expect("valid").options;
        assert!(options.starts_with("--etcd-endpoints=***@") && !options.contains("ter2"), "{options}");
    }
    assert_eq!(parse_words(&[]).expect("valid").options, "");
}

#[test]
fn the_version_needs_nothing_else_to_be_right() {
    assert!(run(&["-version", "--kube-subnet-mgr"]).version);
}
