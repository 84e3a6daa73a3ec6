//! Go's syntax, and where ours is not as forgiving.

use std::path::Path;

use super::*;

#[test]
fn run_is_the_default_command() {
    for words in [&["--mode", "kernel"][..], &["run", "-mode", "kernel"], &["run", "--mode=kernel"]] {
        assert_eq!(run(words).mode, Mode::Kernel, "{words:?}");
    }
}

#[test]
fn other_commands_have_their_own_flags() {
    for words in [&["status", "--json", "--socket", "/s"][..], &["status", "--socket=/s", "--json"]] {
        let Command::Status(status) =
            parse_with(words, &[("FLANNELD_MODE", "nonsense")]).expect("valid").command
        else {
            panic!("status was asked for")
        };
        assert!(status.json && status.socket == Path::new("/s"));
    }
}

#[test]
fn repeatable_flags_add_up_and_of_others_the_last_one_counts() {
    let args =
        run(&["-iface=a", "--iface", "b", "-iface", "-c", "-v", "1", "--v=2", "-ip-masq", "--ip-masq=0"]);
    assert_eq!(args.iface, ["a", "b", "-c"]);
    assert_eq!((args.v, args.ip_masq), (2, false));
    let args = run(&["--etcd-endpoints=http://a:1,http://b:1", "-etcd-endpoints", "http://c:1"]);
    assert_eq!(args.etcd_endpoints, ["http://c:1"]);
    let args = run_with(&["--iface=a"], &[("FLANNELD_IFACE", "b"), ("FLANNELD_IFACE_REGEX", "x,y")]);
    assert_eq!((args.iface, args.iface_regex), (vec!["a".to_owned()], vec!["x,y".to_owned()]));
}

#[test]
fn an_empty_value_is_none() {
    let args = run(&["--public-ip=192.0.2.1", "--public-ip=", "--etcd-cafile", "", "--store="]);
    assert_eq!((args.public_ip, args.etcd_cafile, args.store), (None, None, None));
    assert_eq!(run(&["--iface="]).iface, [""], "which flanneld takes for the default route's");
    assert_eq!(
        run(&["--healthz-ip="]).healthz_ip,
        std::net::Ipv6Addr::UNSPECIFIED,
        "all addresses to flanneld"
    );
    assert_eq!(run(&["--etcd-endpoints=http://a:1,"]).etcd_endpoints, ["http://a:1"]);
}

#[test]
fn a_port_of_nothing_or_less_is_none() {
    for port in ["0", "-1", "-0x10"] {
        for words in
            [vec![format!("--healthz-port={port}")], vec!["-healthz-port".to_owned(), port.to_owned()]]
        {
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            assert_eq!(run(&words).healthz_port, 0, "{words:?}");
        }
        assert_eq!(run_with(&[], &[("FLANNELD_HEALTHZ_PORT", port)]).healthz_port, 0, "{port}");
    }
}

#[test]
fn what_go_ignores_is_refused() {
    let table: [(&[&str], &str); 15] = [
        (&["--nonsense"], "'--nonsense'"),
        (&["-nonsense=1"], "'--nonsense'"),
        (&["-v3"], "'--v3'"),
        (&["---v=3"], "---v"),
        (&["-=3"], "-="),
        (&["--ip-masq", "true", "--iface", "eth0"], "--ip-masq=true"),
        (&["--ip-masq", "eth0"], "unexpected argument 'eth0'"),
        (&["--ip-masq", "-v=1", "true"], "flags start with '-'"),
        (&["--mode", "kernel", "status"], "commands come before flags"),
        (&["--mode", "kernel", "run"], "commands come before flags"),
        (&["-h=1", "more"], "'more'"),
        (&["run", "more"], "'more'"),
        (&["-v", "1", "-"], "unexpected argument '-'"),
        (&["-v", "1", "--", "more"], "'more'"),
        (&["--iface"], "--iface"),
    ];
    for (words, expected) in table {
        let line = refusal(words, &[]);
        assert!(line.contains(expected), "{words:?}: {line}");
    }
    for words in [&["--"][..], &["run", "--"], &["-v=0", "--"]] {
        assert!(run_with(words, &[("FLANNELD_IP_MASQ", "1")]).ip_masq, "{words:?}");
    }
}

#[test]
fn help_is_asked_for_as_in_go() {
    for words in [&["-h"][..], &["-help"], &["--help"], &["--h"], &["run", "-help"], &["-v=1", "-h"]] {
        let help = parse_words(words).expect_err("help");
        assert!(!help.use_stderr() && help.exit_code() == 0, "{words:?}");
        for heading in
            ["Data plane:", "Store: etcd:", "Store: Kubernetes:", "Node:", "Firewall:", "Health:", "Logging:"]
        {
            assert!(help.to_string().contains(heading), "{words:?} {heading}");
        }
    }
}

#[test]
fn integers_are_gos() {
    let good = [
        ("0", 0),
        ("7", 7),
        ("+7", 7),
        ("-7", -7),
        ("010", 8),
        ("0o10", 8),
        ("0O10", 8),
        ("0b101", 5),
        ("0B1", 1),
        ("0x1f", 31),
        ("0X1F", 31),
        ("-0x10", -16),
        ("1_000", 1000),
        ("0x_1", 1),
        ("0_7", 7),
        ("0x1_0", 16),
        ("00", 0),
    ];
    for (text, value) in good {
        assert_eq!(go::integer::<i64>(text, -100..=1000), Ok(value), "{text}");
    }
    let bad = [
        "",
        "+",
        "-",
        "x",
        "08",
        "0x",
        "0b2",
        "0o8",
        "1__0",
        "_1",
        "1_",
        "0x1_",
        "0x__1",
        "1e3",
        "1.0",
        " 1",
        "--1",
        "+-1",
        "0x-1",
        "1001",
        "99999999999999999999",
        "é",
    ];
    for text in bad {
        assert_eq!(
            go::integer::<i64>(text, -100..=1000),
            Err("expected a whole number from -100 to 1000".to_owned()),
            "{text}"
        );
    }
}

#[test]
fn booleans_are_gos() {
    for (words, value) in [("1 t T TRUE true True", Ok(true)), ("0 f F FALSE false False", Ok(false))] {
        for word in words.split(' ') {
            assert_eq!(go::boolean(word), value, "{word}");
        }
    }
    for word in ["", "yes", "tRUE", "2", "true "] {
        assert!(go::boolean(word).is_err(), "{word}");
    }
}
