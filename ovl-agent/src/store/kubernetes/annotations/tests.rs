use super::*;

fn usual() -> Annotations {
    "flannel.alpha.coreos.com".parse().expect("the default")
}

fn attrs(text: &str) -> LeaseAttrs {
    serde_json::from_str(text).expect(text)
}

fn present(pairs: &[(&str, &str)]) -> Present {
    let name = |suffix: &str| format!("flannel.alpha.coreos.com/{suffix}");
    pairs.iter().map(|(suffix, value)| (name(suffix), (*value).to_owned())).collect()
}

/// flannel's `annotations_test.go`.
#[test]
fn prefixes_are_completed_and_refused_as_flannel_does() {
    let table = [
        ("flannel.alpha.coreos.com", Some("flannel.alpha.coreos.com/")),
        ("org.com", Some("org.com/")),
        ("org.com/", Some("org.com/")),
        ("org.com/abc", Some("org.com/abc-")),
        ("org.com/abc-", Some("org.com/abc-")),
        ("org.com/abc_1.x", Some("org.com/abc_1.x-")),
        ("org.com/abc/def", None),
        ("org", None),
        ("org/abc", None),
        ("org.com/ABC", None),
        ("Org.com", None),
        ("org..com", None),
        ("org.com/a b", None),
        ("", None),
    ];
    for (text, prefix) in table {
        let read = text.parse::<Annotations>().ok().map(|names| names.prefix);
        assert_eq!(read.as_deref(), prefix, "{text}");
    }
}

#[test]
fn what_is_written_is_what_flannel_writes() {
    let dual = attrs(concat!(
        r#"{"PublicIP":"192.0.2.11","PublicIPv6":"2001:db8::11","BackendType":"vxlan","#,
        r#""BackendData":{"VNI":1,"VtepMAC":"d2:41:0a:9c:55:e1"},"#,
        r#""BackendV6Data":{"VNI":1,"VtepMAC":"86:0f:11:3b:72:04"}}"#
    ));
    let some = |value: &str| Some(value.to_owned());
    let wanted = |pairs: &[(&str, Option<String>)]| -> Wanted {
        let name = |suffix: &str| format!("flannel.alpha.coreos.com/{suffix}");
        pairs.iter().map(|(suffix, value)| (name(suffix), value.clone())).collect()
    };
    let expected = wanted(&[
        ("kube-subnet-manager", some("true")),
        ("backend-type", some("vxlan")),
        ("backend-data", some(r#"{"VNI":1,"VtepMAC":"d2:41:0a:9c:55:e1"}"#)),
        ("backend-v6-data", some(r#"{"VNI":1,"VtepMAC":"86:0f:11:3b:72:04"}"#)),
        ("public-ip", some("192.0.2.11")),
        ("public-ipv6", some("2001:db8::11")),
    ]);
    assert_eq!(usual().missing(&Present::new(), &dual), expected);
    let written: Present = expected.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    assert_eq!(usual().missing(&written, &dual), Wanted::new(), "nothing is written twice");
    assert_eq!(usual().read(&written), Ok(dual));

    // A family that is not used any more; host-gw has no data, which Go writes as null.
    let ipv4 = attrs(r#"{"PublicIP":"192.0.2.11","PublicIPv6":null,"BackendType":"host-gw"}"#);
    let expected = wanted(&[
        ("backend-type", some("host-gw")),
        ("backend-data", some("null")),
        ("backend-v6-data", None),
        ("public-ipv6", None),
    ]);
    assert_eq!(usual().missing(&written, &ipv4), expected);
}

/// Flannel does not parse the JSON: it strips quotes and braces from the end, splits at `:"` and wants two parts (4.1).
#[test]
fn flannel_finds_the_mac_in_what_we_write() {
    for data in [
        r#"{"VNI":1,"VtepMAC":"d2:41:0a:9c:55:e1"}"#,
        r#"{"VNI":1,"UDP6ZeroCsum":true,"VtepMAC":"d2:41:0a:9c:55:e1"}"#,
    ] {
        let text = format!(
            r#"{{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::11","BackendType":"vxlan","BackendV6Data":{data}}}"#
        );
        let missing = usual().missing(&Present::new(), &attrs(&text));
        let written = missing["flannel.alpha.coreos.com/backend-v6-data"].clone().expect("written");
        let parts: Vec<&str> = written.trim_end_matches(['"', '}']).split(":\"").collect();
        assert_eq!(parts.len(), 2, "{written}");
        assert_eq!(parts[1], "d2:41:0a:9c:55:e1");
    }
}

#[test]
fn what_is_wrong_is_named_and_an_operators_mistakes_are_passed_over() {
    let table = [
        ("public-ip", "garbage", "public-ip is 'garbage'"),
        ("public-ip", "2001:db8::1", "not an IPv4 address"),
        ("public-ipv6", "192.0.2.1", "not an IPv6 address"),
        ("backend-data", "{", "backend-data is not JSON"),
        ("backend-v6-data", "{", "backend-v6-data is not JSON"),
    ];
    for (suffix, value, expected) in table {
        let problem = usual().read(&present(&[(suffix, value)])).expect_err(value);
        assert!(problem.contains(expected), "{problem}");
    }
    let nothing = usual().read(&present(&[("backend-data", "null"), ("public-ip", "0.0.0.0")]));
    assert_eq!(nothing.expect("empty").identity(), None);
    let overwrites = present(&[("public-ip-overwrite", "nowhere"), ("public-ipv6-overwrite", "2001:db8::9")]);
    assert_eq!(usual().overwrites(&overwrites).to_string(), "2001:db8::9");
}
