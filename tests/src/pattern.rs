//! The bytes that transfers carry: the same at both ends, so that what arrives is compared byte by byte.

use std::sync::OnceLock;

/// After so many bytes they repeat: a prime, so that no loss of whole segments goes unseen.
const PERIOD: usize = 1_000_003;

/// The longest piece that is asked for at once.
pub const LONGEST: usize = 1 << 20;

/// `length` bytes from `offset` on.
///
/// # Panics
/// For more than [`LONGEST`] bytes.
pub fn pattern(offset: u64, length: usize) -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut bytes: Vec<u8> = (0..=PERIOD / 8).flat_map(|_| next().to_le_bytes()).collect();
        bytes.truncate(PERIOD);
        bytes.extend_from_within(..);
        bytes.extend_from_within(..LONGEST);
        bytes
    });
    assert!(length <= LONGEST, "a piece of {length} bytes is too long");
    let start = usize::try_from(offset % PERIOD as u64).unwrap_or_default();
    &bytes[start..start + length]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_fit_together() {
        let whole = pattern(PERIOD as u64 - 10, 30);
        assert_eq!([pattern(PERIOD as u64 - 10, 10), pattern(0, 20)].concat(), whole);
        assert_eq!(pattern(5 * PERIOD as u64 + 7, LONGEST), pattern(7, LONGEST));
        assert_ne!(pattern(0, 1448), pattern(1448, 1448));
    }
}
