//! The Internet checksum (RFC 1071): the complement of the ones' complement sum of 16-bit words.
//!
//! Such a sum does not care for byte order: summed as they lie in memory, the words' sum lies in memory as it should
//! (RFC 1071 section 2 (B)). So nothing here swaps bytes.

/// A sum so far, of whole 16-bit words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum(u64);

impl Sum {
    /// The pseudo-header of TCP, UDP and ICMPv6 (RFC 9293 section 3.1, RFC 8200 section 8.1): the addresses, as the
    /// packet has them, the protocol, and the length of the transport header and what follows, in bytes.
    pub(crate) fn pseudo_header(addresses: &[u8], protocol: u8, length: u32) -> Self {
        Self::default().bytes(addresses).bytes(&[0, protocol]).bytes(&length.to_be_bytes())
    }

    /// Adds `bytes`, which begin at an even place; an odd one at the end counts as if a zero followed.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Self {
        // Halves of 64-bit words: the compiler makes vectors of it, and no carry gets lost before four gigabytes.
        let (words, rest) = bytes.as_chunks::<8>();
        let (mut low, mut high) = (0_u64, 0_u64);
        for word in words {
            let word = u64::from_ne_bytes(*word);
            low += word & 0xffff_ffff;
            high += word >> 32;
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let last = u64::from_ne_bytes(last);
        Self(fold_to_32(self.0) + fold_to_32(low) + fold_to_32(high) + (last & 0xffff_ffff) + (last >> 32))
    }

    /// The sum itself, as a packet has it whose checksum a device is to complete.
    pub(crate) fn partial(self) -> [u8; 2] {
        let mut sum = fold_to_32(self.0);
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        // Folded above.
        u16::try_from(sum).unwrap_or(u16::MAX).to_ne_bytes()
    }

    /// The checksum of what was summed with zeros in its place.
    pub(crate) fn checksum(self) -> [u8; 2] {
        self.partial().map(|byte| !byte)
    }

    /// Whether what was summed with its checksum in it is as it was sent.
    pub(crate) fn is_valid(self) -> bool {
        self.partial() == [0xff; 2]
    }
}

fn fold_to_32(sum: u64) -> u64 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    (sum & 0xffff_ffff) + (sum >> 32)
}

/// The checksum after one of the words it covers has changed (RFC 1624, equation 3).
pub(crate) fn updated(checksum: [u8; 2], old: [u8; 2], new: [u8; 2]) -> [u8; 2] {
    let complement = |word: [u8; 2]| word.map(|byte| !byte);
    Sum::default().bytes(&complement(checksum)).bytes(&complement(old)).bytes(&new).checksum()
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    /// Word by word, as RFC 1071 section 4.1 has it.
    fn plainly(bytes: &[u8]) -> [u8; 2] {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            let word = u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]);
            sum += u32::from(word);
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!u16::try_from(sum).expect("folded")).to_be_bytes()
    }

    #[test]
    fn the_example_of_the_rfc() {
        let words = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().bytes(&words).partial(), [0xdd, 0xf2]);
    }

    #[test]
    fn any_bytes_sum_up_as_they_do_word_by_word() {
        let mut random = StdRng::seed_from_u64(1071);
        for length in (0..200).chain([65_535, 65_534]) {
            let mut bytes = vec![0; length];
            random.fill(bytes.as_mut_slice());
            assert_eq!(Sum::default().bytes(&bytes).checksum(), plainly(&bytes), "{length} bytes");
            let (one, other) = bytes.split_at(length / 2 / 2 * 2);
            assert_eq!(Sum::default().bytes(one).bytes(other).checksum(), plainly(&bytes), "in two parts");
        }
        let ones = vec![0xff; 65_535];
        assert_eq!(Sum::default().bytes(&ones).checksum(), plainly(&ones));
    }

    #[test]
    fn a_changed_word_changes_the_checksum_as_a_new_sum_would() {
        let mut random = StdRng::seed_from_u64(1624);
        for _ in 0..10_000 {
            let mut header: [u8; 20] = random.random();
            let before = Sum::default().bytes(&header).checksum();
            let (old, new) = ([header[8], header[9]], random.random::<[u8; 2]>());
            header[8..10].copy_from_slice(&new);
            let after = Sum::default().bytes(&header).checksum();
            assert_eq!(updated(before, old, new), after);
        }
    }
}
