use std::net::IpAddr;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::udp::packet::take_hop;
use crate::udp::packet::testing::{ip, is_whole, pods, tcp, udp};
use crate::udp::segment::{CWR, FIN, Segments};

/// Puts packets together, and gives what would be written: each with the device's header before it.
fn together(packets: &[Vec<u8>]) -> Vec<(Offload, Vec<u8>, usize)> {
    together_by(Coalescer::new(true), packets)
}

fn together_by(mut coalescer: Coalescer, packets: &[Vec<u8>]) -> Vec<(Offload, Vec<u8>, usize)> {
    let mut written = Vec::new();
    let mut buffer: Vec<u8> = packets.concat();
    let mut start = 0;
    for packet in packets {
        let place = start..start + packet.len();
        let header = Header::read(packet).expect("sound");
        assert!(!coalescer.is_full());
        coalescer.add(&buffer, place, &header);
        start += packet.len();
    }
    coalescer.finish(&mut buffer, |parts, packets, bytes| {
        let offload = Offload::read(parts[0].as_ref().try_into().expect("ten bytes")).expect("known");
        let whole: Vec<u8> = parts[1..].iter().flat_map(|part| part.iter().copied()).collect();
        assert_eq!(whole.len(), bytes);
        written.push((offload, whole, packets));
    });
    written
}

/// Takes it apart again, as the kernel would.
fn apart(written: &[(Offload, Vec<u8>, usize)]) -> Vec<Vec<u8>> {
    let each = written.iter().flat_map(|(offload, packet, packets)| {
        let header = Header::read(packet).expect("sound");
        let Some(aggregate) = offload.aggregate else {
            assert_eq!(*packets, 1);
            return vec![packet.clone()];
        };
        let segments = Segments::of(packet, &header, aggregate, offload.checksum).expect("sound");
        assert_eq!(segments.count(), *packets);
        let one = |index| {
            let mut place = vec![0; segments.length(index)];
            segments.write(index, &mut place);
            place
        };
        (0..segments.count()).map(one).collect()
    });
    each.collect()
}

/// A stream's packets from sequence number 1000 on, of these lengths.
fn stream(addresses: (IpAddr, IpAddr), lengths: &[usize]) -> Vec<Vec<u8>> {
    let mut sequence = 1000;
    let mut packets = Vec::new();
    for (index, length) in lengths.iter().enumerate() {
        let payload: Vec<u8> = (0..=255).cycle().skip(index).take(*length).collect();
        let mut packet = tcp(addresses, sequence, ACK, &payload);
        if addresses.0.is_ipv4() {
            packet[5] = packet[5].wrapping_add(u8::try_from(index).expect("few"));
            write_ipv4_checksum(&mut packet);
        }
        packets.push(packet);
        sequence += u32::try_from(*length).expect("small");
    }
    packets
}

fn write_ipv4_checksum(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = Sum::default().bytes(&packet[..20]).checksum();
    packet[10..12].copy_from_slice(&sum);
}

fn hops_taken(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let taken = packets.iter().cloned().map(|mut packet| {
        take_hop(&mut packet);
        packet
    });
    taken.collect()
}

#[test]
fn a_stream_becomes_one_packet_that_comes_apart_as_it_was() {
    for addresses in pods() {
        let packets = stream(addresses, &[1000, 1000, 1000, 400]);
        let written = together(&packets);
        let [(offload, whole, 4)] = written.as_slice() else { panic!("one packet: {written:?}") };
        let headers = if addresses.0.is_ipv4() { 52 } else { 72 };
        assert_eq!(whole.len(), headers + 3400);
        let aggregate = offload.aggregate.expect("an aggregate");
        assert_eq!((aggregate.size, usize::from(aggregate.headers)), (1000, headers));
        assert_eq!(apart(&written), hops_taken(&packets));
    }
}

#[test]
fn datagrams_become_one_packet_that_comes_apart_as_it_was() {
    for addresses in pods() {
        let packets: Vec<_> = (0..5).map(|number| udp(addresses, &[number; 700])).collect();
        let written = together(&packets);
        assert_eq!(written.len(), 1);
        let mut again = apart(&written);
        // Numbers that count up are no matter where nothing may be fragmented.
        for (packet, before) in again.iter_mut().zip(&packets).filter(|(packet, _)| packet[0] >> 4 == 4) {
            packet[4..6].copy_from_slice(&before[4..6]);
            write_ipv4_checksum(packet);
        }
        assert_eq!(again, hops_taken(&packets));
    }
}

#[test]
fn datagrams_stay_as_they_are_where_the_kernel_takes_no_runs_of_them() {
    for addresses in pods() {
        let datagrams: Vec<_> = (0..5).map(|number| udp(addresses, &[number; 700])).collect();
        let written = together_by(Coalescer::new(false), &datagrams);
        assert!(written.iter().all(|(offload, ..)| *offload == Offload::default()));
        assert_eq!(apart(&written), hops_taken(&datagrams));
        assert_eq!(together_by(Coalescer::new(false), &stream(addresses, &[1000; 5])).len(), 1);
    }
}

#[test]
fn two_streams_are_told_apart_and_keep_their_order() {
    let [ipv4, ipv6] = pods().map(|addresses| stream(addresses, &[1000; 6]));
    let mixed: Vec<_> =
        ipv4.iter().zip(&ipv6).flat_map(|(one, other)| [one.clone(), other.clone()]).collect();
    let written = together(&mixed);
    assert_eq!(written.iter().map(|(.., packets)| *packets).collect::<Vec<_>>(), [6, 6]);
    assert_eq!(apart(&written), hops_taken(&[ipv4, ipv6].concat()));
}

#[test]
fn what_does_not_follow_stands_alone() {
    let addresses = pods()[0];
    let usual = || stream(addresses, &[500, 500]);
    let changed = |index: usize, change: fn(&mut Vec<u8>)| {
        let mut packets = usual();
        change(&mut packets[index]);
        packets
    };
    let resum = |packets: &mut [Vec<u8>]| {
        for packet in packets {
            write_ipv4_checksum(packet);
            packet[36..38].fill(0);
            let length = u32::try_from(packet.len() - 20).expect("small");
            let sum = Sum::pseudo_header(addresses_of(packet), TCP, length).bytes(&packet[20..]).checksum();
            packet[36..38].copy_from_slice(&sum);
        }
    };
    let table: [(&str, Vec<Vec<u8>>); 10] = [
        ("another TTL", changed(1, |packet| packet[8] = 9)),
        ("another type of service", changed(1, |packet| packet[1] = 3)),
        ("a gap", changed(1, |packet| packet[27] ^= 1)),
        ("another acknowledgement", changed(1, |packet| packet[31] ^= 1)),
        ("another window", changed(1, |packet| packet[34] ^= 1)),
        ("another timestamp", changed(1, |packet| packet[51] ^= 1)),
        ("an end", changed(1, |packet| packet[33] |= FIN)),
        ("a push before", changed(0, |packet| packet[33] |= PSH)),
        ("a window that was reduced before", changed(0, |packet| packet[33] |= CWR)),
        ("a longer one", stream(addresses, &[400, 500])),
    ];
    for (what, mut packets) in table {
        resum(&mut packets);
        assert!(packets.iter().all(|packet| is_whole(packet)), "{what}");
        assert_eq!(together(&packets).len(), 2, "{what}");
    }
    let mut usual = usual();
    resum(&mut usual);
    assert_eq!(together(&usual).len(), 1, "else they would");
}

fn addresses_of(packet: &[u8]) -> &[u8] {
    &packet[12..20]
}

#[test]
fn numbers_count_where_packets_may_be_fragmented() {
    for (step, runs) in [(1, 1), (0, 2), (2, 2)] {
        let mut packets = stream(pods()[0], &[500, 500]);
        packets[1][5] = packets[0][5] + step;
        for packet in &mut packets {
            packet[6] = 0;
            write_ipv4_checksum(packet);
        }
        assert_eq!(together(&packets).len(), runs, "a step of {step}");
    }
}

#[test]
fn a_packet_that_is_broken_is_left_to_the_kernel_as_it_is() {
    for broken in 0..3 {
        let mut packets = stream(pods()[1], &[500; 3]);
        *packets[broken].last_mut().expect("payload") ^= 1;
        let written = together(&packets);
        assert!(written.len() > 1, "packet {broken}");
        assert_eq!(apart(&written), hops_taken(&packets));
    }
}

#[test]
fn others_pass_as_they_are() {
    let (source, destination) = pods()[0];
    let mut fragment = udp((source, destination), &[1; 100]);
    fragment[6] = 0x20;
    write_ipv4_checksum(&mut fragment);
    let packets = [
        ip(source, destination, 1, &[8, 0, 0, 0, 0, 0, 0, 0]),
        fragment.clone(),
        fragment,
        ip(source, destination, TCP, &[0; 7]),
        ip(source, destination, UDP, &[]),
        tcp((source, destination), 1, ACK, &[]),
        tcp((source, destination), 1, ACK, &[]),
    ];
    let written = together(&packets);
    assert!(written.iter().all(|(offload, _, packets)| *offload == Offload::default() && *packets == 1));
    assert_eq!(apart(&written), hops_taken(&packets));
}

#[test]
fn a_run_ends_before_a_packet_can_be_no_longer() {
    let packets = stream(pods()[0], &[1400; 60]);
    let written = together(&packets);
    assert_eq!(written.iter().map(|(.., packets)| *packets).collect::<Vec<_>>(), [46, 14]);
    assert_eq!(apart(&written), hops_taken(&packets));
}

/// Whatever the bytes: no panic, and what is put together comes apart again, in every stream's order.
#[test]
fn mutated_packets_come_apart_as_they_were() {
    let mut random = StdRng::seed_from_u64(64);
    for _ in 0..3000 {
        let mut packets = stream(pods()[random.random_range(0..2)], &[300; 8]);
        for _ in 0..random.random_range(0..4) {
            let packet = random.random_range(0..packets.len());
            let at = random.random_range(0..packets[packet].len());
            packets[packet][at] = random.random();
        }
        packets.retain(|packet| Header::read(packet).is_ok());
        let mut again = apart(&together(&packets));
        let mut before = hops_taken(&packets);
        // Changed ports make another stream, whose packets may come before others'; numbers may be counted anew.
        for packet in again.iter_mut().chain(&mut before) {
            if packet[0] >> 4 == 4 {
                packet[4..6].fill(0);
                packet[10..12].fill(0);
            }
        }
        again.sort();
        before.sort();
        assert_eq!(again, before);
    }
}
