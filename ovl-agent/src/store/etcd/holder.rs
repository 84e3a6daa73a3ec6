//! Who uses a public IP: written so that whoever finds it can tell whether that process still lives.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde::{Deserialize, Serialize};

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    /// Name of its host, for a person.
    pub(super) host: String,
    /// What stays over a reboot; empty where the host has none.
    machine_id: String,
    boot_id: String,
    /// Its number, as its own PID namespace has it.
    pub(super) pid: u32,
    /// Inode of that namespace.
    pid_ns: u64,
    /// In ticks after the boot: tells it from another process with its number.
    start_time: u64,
    /// Tells two stores that one process has opened apart.
    claim: u64,
}

/// Whether a process lives, as far as another one can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It has ended.
    Dead,
    /// It lives.
    Alive,
    /// It may be on another machine or in another container.
    Unknown,
}

impl Holder {
    /// This process, as the user of one more store.
    pub(super) fn this_process() -> Self {
        Self {
            host: read("/proc/sys/kernel/hostname"),
            machine_id: read("/etc/machine-id"),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            pid: std::process::id(),
            pid_ns: fs::metadata("/proc/self/ns/pid").map_or(0, |metadata| metadata.ino()),
            start_time: start_time(std::process::id()).unwrap_or_default().unwrap_or_default(),
            claim: rand::random(),
        }
    }

    /// What `me` can tell of this process. A boot's id is that of one machine.
    pub(super) fn life(&self, me: &Self) -> Life {
        if self.boot_id.is_empty() || self.boot_id != me.boot_id {
            let is_our_machine = !self.machine_id.is_empty() && self.machine_id == me.machine_id;
            let has_rebooted = is_our_machine && !self.boot_id.is_empty() && !me.boot_id.is_empty();
            return if has_rebooted { Life::Dead } else { Life::Unknown };
        }
        if self.pid_ns != me.pid_ns {
            return Life::Unknown;
        }
        match start_time(self.pid) {
            Ok(found) if found == Some(self.start_time) => Life::Alive,
            Ok(_) => Life::Dead,
            Err(_) => Life::Unknown,
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// When a process of our PID namespace was started; `None` where it does not live.
fn start_time(pid: u32) -> std::io::Result<Option<u64>> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => Ok(parse_stat(&stat)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Field 22 of proc_pid_stat(5), unless field 3 says that only the parent's wait is missing.
fn parse_stat(stat: &str) -> Option<u64> {
    // The command, field 2, is in parentheses and may hold anything, parentheses included.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_command() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 2 3";
        assert_eq!(parse_stat(stat), Some(4711));
        assert_eq!(parse_stat(&stat.replace(" S ", " Z ")), None, "a zombie");
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn what_cannot_be_told_is_unknown() {
        let me = Holder { machine_id: "m".to_owned(), boot_id: "b".to_owned(), ..Holder::this_process() };
        let number_used_again = Holder { start_time: me.start_time + 1, ..me.clone() };
        let no_such_process = Holder { pid: u32::MAX, ..me.clone() };
        let before_the_reboot = Holder { boot_id: "a".to_owned(), ..me.clone() };
        let other_pid_namespace = Holder { pid: u32::MAX, pid_ns: 1, ..me.clone() };
        let other_machine = Holder { machine_id: "n".to_owned(), ..before_the_reboot.clone() };
        let table = [
            ("alive", me.clone(), Life::Alive),
            ("number used again", number_used_again, Life::Dead),
            ("no such process", no_such_process, Life::Dead),
            ("before the reboot", before_the_reboot, Life::Dead),
            ("other PID namespace", other_pid_namespace, Life::Unknown),
            ("other machine", other_machine, Life::Unknown),
        ];
        for (name, holder, life) in table {
            assert_eq!(holder.life(&me), life, "{name}");
        }
        let nameless = Holder { machine_id: String::new(), ..me.clone() };
        let other_boot = Holder { boot_id: "a".to_owned(), ..nameless.clone() };
        assert_eq!(other_boot.life(&nameless), Life::Unknown, "two machines without an id are not one");
        let ended = Holder { pid: u32::MAX, ..nameless.clone() };
        assert_eq!(
            ended.life(&nameless),
            Life::Dead,
            "a container without an id, on the machine of that boot"
        );
    }
}
