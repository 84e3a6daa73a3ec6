//! The tables of legacy iptables, read from the kernel without a process started, as far as to see that they changed.

use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc::{self, c_int, c_void, socklen_t};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::family::Family;

/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES` in linux/netfilter_ipv4/ip_tables.h; IPv6 has the same numbers.
const GET_INFO: c_int = 64;
const GET_ENTRIES: c_int = 65;
/// `XT_TABLE_MAXNAMELEN`, the size of the name that both requests begin with.
const NAME: usize = 32;
/// `struct ipt_getinfo`: name, valid hooks, entry and underflow of five hooks, number of entries, their size.
const INFO: usize = NAME + 4 + 20 + 20 + 4 + 4;
/// Where the entries begin in `struct ipt_get_entries`: name, size, padding.
const ENTRIES: usize = NAME + 8;
/// Somebody else may change the table between the two requests.
const TRIES: usize = 5;

/// Where things are in an entry of the family (`struct ipt_entry`, `struct ip6t_entry`).
struct Layout {
    next_offset: usize,
    counters: std::ops::Range<usize>,
}

fn layout(family: Family) -> Layout {
    match family {
        Family::V4 => Layout { next_offset: 90, counters: 96..112 },
        Family::V6 => Layout { next_offset: 142, counters: 152..168 },
    }
}

/// The tables that somebody has used in this thread's network namespace. Asking the kernel for another would make it.
pub(super) fn tables(family: Family) -> Vec<String> {
    let file = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    // Without the module there is no such file.
    let mut names: Vec<String> =
        fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect();
    names.sort();
    names
}

/// A number that changes when a rule of the family changes, and does not when packets are counted.
pub(super) fn fingerprint(family: Family) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for table in tables(family) {
        let mut entries = entries(family, &table)
            .with_context(|| format!("cannot read the {family} table {table} of iptables"))?;
        forget_counters(family, &mut entries);
        hasher.write(table.as_bytes());
        hasher.write(&entries);
    }
    Ok(hasher.finish())
}

fn entries(family: Family, table: &str) -> nix::Result<Vec<u8>> {
    let kind = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    let socket = socket(kind, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
    let mut answer = Err(Errno::EAGAIN);
    for _ in 0..TRIES {
        let mut info = request(table, INFO);
        get(&socket, family, GET_INFO, &mut info)?;
        let size: [u8; 4] = info[INFO - 4..].try_into().map_err(|_length| Errno::EBADMSG)?;
        let length = usize::try_from(u32::from_ne_bytes(size)).map_err(|_size| Errno::EOVERFLOW)?;
        let mut entries = request(table, ENTRIES + length);
        entries[NAME..NAME + 4].copy_from_slice(&size);
        answer = get(&socket, family, GET_ENTRIES, &mut entries).map(|()| entries.split_off(ENTRIES));
        if answer != Err(Errno::EAGAIN) {
            break;
        }
    }
    answer
}

fn request(table: &str, length: usize) -> Vec<u8> {
    let mut request = vec![0; length];
    // The last byte stays zero.
    for (to, from) in request[..NAME - 1].iter_mut().zip(table.bytes()) {
        *to = from;
    }
    request
}

/// `getsockopt` with a buffer that is both question and answer.
fn get(socket: &OwnedFd, family: Family, option: c_int, buffer: &mut [u8]) -> nix::Result<()> {
    let level = match family {
        Family::V4 => libc::IPPROTO_IP,
        Family::V6 => libc::IPPROTO_IPV6,
    };
    let mut length = socklen_t::try_from(buffer.len()).map_err(|_size| Errno::EOVERFLOW)?;
    // SAFETY: the kernel writes at most `length` bytes, which is the buffer's length, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            buffer.as_mut_ptr().cast::<c_void>(),
            &raw mut length,
        )
    };
    Errno::result(result).map(drop)
}

/// Sets the packet and byte counts of all rules to zero.
fn forget_counters(family: Family, entries: &mut [u8]) {
    let Layout { next_offset, counters } = layout(family);
    let mut rest = entries;
    while let Some(counters) = rest.get_mut(counters.clone()) {
        counters.fill(0);
        let length = usize::from(u16::from_ne_bytes([rest[next_offset], rest[next_offset + 1]]));
        let (_, after) = rest.split_at_mut(length.clamp(1, rest.len()));
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry of `length` bytes with this in its counters, and a byte that tells rules apart.
    fn entry(family: Family, length: u16, count: u8, rule: u8) -> Vec<u8> {
        let Layout { next_offset, counters } = layout(family);
        let mut entry = vec![rule; usize::from(length)];
        entry[counters].fill(count);
        entry[next_offset..next_offset + 2].copy_from_slice(&length.to_ne_bytes());
        entry
    }

    #[test]
    fn counters_do_not_matter_and_rules_do() {
        for (family, length) in [(Family::V4, 152), (Family::V6, 208)] {
            let blob = |count, rule| {
                let mut blob =
                    [entry(family, length, count, 1), entry(family, length + 16, count, rule)].concat();
                forget_counters(family, &mut blob);
                blob
            };
            assert_eq!(blob(1, 5), blob(9, 5), "{family}");
            assert_ne!(blob(1, 5), blob(1, 6), "{family}");
        }
    }

    #[test]
    fn nonsense_ends() {
        let mut zeros = vec![0; 1000];
        forget_counters(Family::V4, &mut zeros);
        let mut ones = vec![0xff; 1000];
        forget_counters(Family::V6, &mut ones);
    }
}
