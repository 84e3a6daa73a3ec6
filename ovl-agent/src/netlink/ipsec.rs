//! Whether the node has IPsec policies.
//!
//! Packets that programs redirect are not transformed, and tunnel packets that come in clear are not held against the
//! policies: where nodes are joined by IPsec, all of it is the kernel's.

use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_XFRM;
use tracing::debug;

/// `XFRM_MSG_GETSPDINFO` and `XFRMA_SPD_INFO` in linux/xfrm.h.
const GETSPDINFO: u16 = 0x25;
const SPD_INFO: u16 = 1;
/// `NLM_F_REQUEST` in linux/netlink.h.
const REQUEST: u16 = 1;
/// `struct nlmsghdr`, and the flags before the attributes.
const HEADERS: usize = 16 + 4;

/// Whether there is any policy in this network namespace. A kernel without IPsec has none.
pub fn has_ipsec_policies() -> bool {
    match ask() {
        Ok(answer) => counts(&answer).any(|count| count > 0),
        Err(error) => {
            debug!("cannot ask for IPsec policies: {error}");
            false
        }
    }
}

fn ask() -> std::io::Result<Vec<u8>> {
    let socket = Socket::new(NETLINK_XFRM)?;
    let mut request = Vec::with_capacity(HEADERS);
    request.extend(20u32.to_ne_bytes());
    request.extend(GETSPDINFO.to_ne_bytes());
    request.extend(REQUEST.to_ne_bytes());
    // Sequence number, sender and the request's own flags.
    request.extend([0; 12]);
    socket.send(&request, 0)?;
    let mut answer = Vec::with_capacity(4096);
    // It is there when `send` returns.
    socket.recv(&mut answer, nix::libc::MSG_DONTWAIT)?;
    Ok(answer)
}

/// The numbers of policies in, out and forwarded (`struct xfrmu_spdinfo`; the second three are sockets' own).
fn counts(answer: &[u8]) -> impl Iterator<Item = u32> {
    let mut attributes = answer.get(HEADERS..).unwrap_or_default();
    let mut found: &[u8] = &[];
    while let [a, b, c, d, ..] = *attributes {
        let (length, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let Some(content) = attributes.get(4..length) else { break };
        if kind == SPD_INFO {
            found = content;
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found.chunks_exact(4).take(3).map(|word| u32::from_ne_bytes(word.try_into().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_counted_by_direction() {
        let answer = |counts: [u32; 6]| {
            let mut bytes = vec![0; HEADERS];
            bytes.extend([8, 0, 2, 0, 32, 32, 0, 0].map(u8::from));
            bytes.extend(28u16.to_ne_bytes());
            bytes.extend(SPD_INFO.to_ne_bytes());
            bytes.extend(counts.into_iter().flat_map(u32::to_ne_bytes));
            bytes
        };
        assert_eq!(counts(&answer([1, 2, 3, 9, 9, 9])).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(counts(&answer([0; 6])).sum::<u32>(), 0);
        for end in 0..answer([1; 6]).len() {
            let _parsed = counts(&answer([1; 6])[..end]).count();
        }
        // Lengths that lie.
        assert_eq!(counts(&[0; 200]).count(), 0);
    }
}
