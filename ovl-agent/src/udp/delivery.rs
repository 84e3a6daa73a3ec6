//! Packets for the pods written to the device: runs as one, and where the kernel does not take them so, one by one.

use std::io::{self, IoSlice};

use nix::libc;

use super::coalesce::Coalescer;
use super::offload::{self, Offload};
use super::packet::Header;
use super::reason::{Reason, Tally, Way};
use super::segment::Segments;

/// Writes everything that is in `coalescer`, whose packets are in `buffer`, and counts what became of it.
pub(crate) fn deliver(
    coalescer: &mut Coalescer,
    buffer: &mut [u8],
    tally: &mut Tally,
    write: impl Fn(&[IoSlice<'_>]) -> io::Result<usize>,
) {
    let mut count = |result: io::Result<usize>, packets, bytes| {
        let reason = if result.is_ok() { Reason::Delivered } else { Reason::WriteFailed };
        tally.count(Way::ToTun, reason, packets, bytes);
    };
    coalescer.finish(buffer, |parts, packets, bytes| match write(parts) {
        // `virtio_net_hdr_to_skb` does not know this kind of aggregate, or does not believe what is said of it.
        Err(error) if packets > 1 && error.raw_os_error() == Some(libc::EINVAL) => {
            if apart(parts, |packet| count(write(packet), 1, packet[1].len())).is_none() {
                count(Err(error), packets, bytes);
            }
        }
        result => count(result, packets, bytes),
    });
}

/// Gives every packet of a run to `write`, in parts as runs are; `None` where it is no run. Allocates, which a kernel
/// that takes what it said it takes does not ask for.
fn apart(parts: &[IoSlice<'_>], mut write: impl FnMut(&[IoSlice<'_>])) -> Option<()> {
    let (described, parts) = parts.split_first()?;
    let offload = Offload::read(described.as_ref().try_into().ok()?)?;
    let whole: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
    let header = Header::read(&whole).ok()?;
    let segments = Segments::of(&whole, &header, offload.aggregate?, offload.checksum).ok()?;
    let mut packet = Vec::new();
    let nothing_left: [u8; offload::LENGTH] = Offload::default().write();
    for index in 0..segments.count() {
        packet.resize(segments.length(index), 0);
        segments.write(index, &mut packet);
        write(&[IoSlice::new(&nothing_left), IoSlice::new(&packet)]);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::udp::packet::take_hop;
    use crate::udp::packet::testing::{pods, udp};
    use crate::udp::reason::Counters;

    /// Delivers datagrams to a device that refuses what has more than one; gives what it took, and the counts.
    fn delivered(packets: &[Vec<u8>], refuses: impl Fn(Offload) -> Option<i32>) -> (Vec<Vec<u8>>, String) {
        let (mut coalescer, mut buffer) = (Coalescer::new(true), packets.concat());
        let mut start = 0;
        for packet in packets {
            coalescer.add(&buffer, start..start + packet.len(), &Header::read(packet).expect("sound"));
            start += packet.len();
        }
        let (taken, counters, mut tally) = (RefCell::new(Vec::new()), Counters::default(), Tally::default());
        deliver(&mut coalescer, &mut buffer, &mut tally, |parts| {
            let offload = Offload::read(parts[0].as_ref().try_into().expect("ten bytes")).expect("known");
            if let Some(errno) = refuses(offload) {
                return Err(io::Error::from_raw_os_error(errno));
            }
            taken.borrow_mut().push(parts[1..].iter().flat_map(|part| part.iter().copied()).collect());
            Ok(0)
        });
        tally.hand_over(&counters);
        let counts = counters.facts().into_iter().map(|row| format!("{} {}", row.reason, row.packets));
        (taken.into_inner(), counts.collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn a_run_that_the_kernel_does_not_take_is_written_packet_by_packet() {
        let packets: Vec<_> = (0..5).map(|number| udp(pods()[1], &[number; 700])).collect();
        let mut sent = packets.clone();
        for packet in &mut sent {
            take_hop(packet);
        }
        let einval = |offload: Offload| offload.aggregate.map(|_| libc::EINVAL);
        assert_eq!(delivered(&packets, einval), (sent, "delivered 5".to_owned()));
        let (taken, counts) = delivered(&packets, |_| None);
        assert_eq!((taken.len(), counts.as_str()), (1, "delivered 5"));
    }

    #[test]
    fn what_the_device_takes_in_no_form_is_counted_once() {
        let packets: Vec<_> = (0..5).map(|number| udp(pods()[0], &[number; 700])).collect();
        for errno in [libc::EINVAL, libc::EIO] {
            let (taken, counts) = delivered(&packets, |_| Some(errno));
            assert_eq!(
                (taken.len(), counts.as_str()),
                (0, "write_failed 5"),
                "{}",
                io::Error::from_raw_os_error(errno)
            );
        }
    }
}
