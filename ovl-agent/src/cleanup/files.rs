//! Files that agents leave.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Result;
use ipnet::IpNet;

use super::{CleanupArgs, Leftover, Removal};

/// The folder that agents make for their socket.
const FOLDER: &str = "ovl";
/// Where flanneld keeps its WireGuard key, beside `subnet.env`.
const WIREGUARD_KEY: &str = "wgkey";
/// A shorter prefix is a damaged file: nobody gives an overlay more than a /8.
const SHORTEST_PREFIX: u8 = 8;

/// The files to remove. `subnet.env` has flannel's name and bytes whoever wrote it: it is ours where something else of
/// ours was found, here or before (`found_others`).
pub(super) fn find(args: &CleanupArgs, found_others: bool) -> Vec<Leftover> {
    // First: from then on no pods are made.
    let mut leftovers: Vec<_> = args.cni_conf.iter().filter_map(|path| file(path)).collect();
    // Somebody who answers is an agent of another network namespace.
    if UnixStream::connect(&args.socket).is_err() {
        leftovers.extend(file(&args.socket));
        leftovers.extend(folder(&args.socket));
    }
    if found_others || args.flannel || !leftovers.is_empty() {
        leftovers.extend(file(&args.subnet_file));
    }
    if args.flannel {
        leftovers.extend(file(&args.subnet_file.with_file_name(WIREGUARD_KEY)));
    }
    leftovers
}

fn file(path: &Path) -> Option<Leftover> {
    path.symlink_metadata().ok()?;
    Some(Leftover { what: format!("file {}", path.display()), how: Removal::File(path.to_owned()) })
}

/// The folder of `socket`, where it is the one that agents make and has nothing else in it.
fn folder(socket: &Path) -> Option<Leftover> {
    let folder = socket.parent().filter(|folder| folder.file_name().is_some_and(|name| name == FOLDER))?;
    holds_nothing_but(folder, socket).then(|| Leftover {
        what: format!("folder {}", folder.display()),
        how: Removal::Folder(folder.to_owned()),
    })
}

fn holds_nothing_but(folder: &Path, file: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|entries| entries.flatten().all(|entry| entry.path() == file))
}

/// What is gone is removed.
pub(super) fn absent_is_success(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => Ok(other?),
    }
}

/// flannel's whole ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<IpNet>);

/// The ranges that `subnet.env` names; none where it cannot be read.
pub(super) fn ranges(subnet_file: &Path) -> Ranges {
    fs::read_to_string(subnet_file).map(|text| Ranges::parse(&text)).unwrap_or_default()
}

impl Ranges {
    pub(super) fn parse(subnet_env: &str) -> Self {
        let values = subnet_env.lines().filter_map(|line| match line.trim().split_once('=') {
            Some(("FLANNEL_NETWORK" | "FLANNEL_IPV6_NETWORK", value)) => Some(value),
            _ => None,
        });
        let nets =
            values.flat_map(|value| value.split(',')).filter_map(|net| net.trim().parse::<IpNet>().ok());
        Self(nets.filter(|net| net.prefix_len() >= SHORTEST_PREFIX).map(|net| net.trunc()).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `net` is a part of one of them, and not all of it.
    pub(super) fn have_part(&self, net: &IpNet) -> bool {
        self.0.iter().any(|range| range.contains(net) && range != net)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn ranges_are_read_as_flannel_writes_them() {
        let file =
            "FLANNEL_NETWORK=10.77.0.0/16\nFLANNEL_SUBNET=10.77.18.1/25\nFLANNEL_IPV6_NETWORK=fd77::/48\n";
        let ranges = |nets: &[&str]| Ranges(nets.iter().map(|net| net.parse().expect("valid")).collect());
        let table = [
            (file, ranges(&["10.77.0.0/16", "fd77::/48"])),
            ("FLANNEL_NETWORK=10.77.3.1/16, 10.9.0.0/24\n", ranges(&["10.77.0.0/16", "10.9.0.0/24"])),
            ("FLANNEL_NETWORK=0.0.0.0/0\nFLANNEL_IPV6_NETWORK=::/0\n", Ranges::default()),
            ("FLANNEL_NETWORK=\nFLANNEL_IPV6_NETWORK=x\n#FLANNEL_NETWORK=10.0.0.0/8\n", Ranges::default()),
            ("", Ranges::default()),
        ];
        for (text, expected) in table {
            assert_eq!(Ranges::parse(text), expected, "{text:?}");
        }
        assert_eq!(super::ranges(Path::new("/nowhere/subnet.env")), Ranges::default());
    }

    #[test]
    fn files_go_where_they_are_ours_and_nobody_answers() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let folder = root.path().join("ovl");
        let args = CleanupArgs {
            only_pins: false,
            flannel: false,
            dry_run: true,
            force: false,
            subnet_file: root.path().join("subnet.env"),
            cni_conf: None,
            socket: folder.join("agent.sock"),
        };
        let flannel = CleanupArgs { flannel: true, ..args.clone() };
        let found = |args: &CleanupArgs, others: bool| -> Vec<String> {
            find(args, others).into_iter().map(|leftover| leftover.what).collect()
        };
        let line = |kind: &str, path: &Path| format!("{kind} {}", path.display());
        let (env, key) = (line("file", &args.subnet_file), line("file", &root.path().join("wgkey")));
        let (socket, folder_line) = (line("file", &args.socket), line("folder", &folder));
        fs::write(&args.subnet_file, "").expect("written");
        fs::write(root.path().join("wgkey"), "").expect("written");
        assert!(found(&args, false).is_empty(), "another's subnet.env");
        assert_eq!(found(&args, true), std::slice::from_ref(&env));
        assert_eq!(found(&flannel, false), [env.clone(), key.clone()]);

        fs::create_dir(&folder).expect("created");
        assert_eq!(found(&args, false), [folder_line.clone(), env.clone()], "an agent was here");
        let listener = UnixListener::bind(&args.socket).expect("free");
        assert!(found(&args, false).is_empty(), "somebody answers");
        drop(listener);
        assert_eq!(found(&args, false), [socket.clone(), folder_line, env.clone()]);
        fs::write(folder.join("other"), "").expect("written");
        assert_eq!(found(&flannel, false), [socket, env, key], "the folder is not empty");
        let conf = root.path().join("10-flannel.conflist");
        let with_conf = CleanupArgs { cni_conf: Some(conf.clone()), ..args };
        assert!(!found(&with_conf, false).contains(&line("file", &conf)), "it is not there");
        fs::write(&conf, "").expect("written");
        assert_eq!(found(&with_conf, false)[0], line("file", &conf), "before anything else");
    }
}
