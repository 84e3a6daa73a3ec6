//! Generic XDP that tc cannot be used behind.
//!
//! It copies nearly every packet, to have room in front. Since Linux 6.9 the copy is another socket buffer
//! (`skb_cow_data_for_xdp`), which is not told how long its Ethernet header is (`mac_len`): programs at tc on the same device
//! then see packets that begin with their IP header (tried on 6.18).

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::sync::OnceLock;

const SYMBOLS: &str = "/proc/kallsyms";
const COPY: &str = "skb_cow_data_for_xdp";

/// Whether programs at tc would not find the Ethernet header of packets that generic XDP has seen. Where the kernel does not
/// say, they would not.
pub(super) fn hides_the_frame() -> bool {
    static HIDES: OnceLock<bool> = OnceLock::new();
    *HIDES.get_or_init(|| File::open(SYMBOLS).map_or(true, names_the_copy))
}

fn names_the_copy(symbols: impl std::io::Read) -> bool {
    let mut lines = BufReader::new(symbols).lines();
    lines.any(|line| line.map_or(true, |line| line.split_whitespace().nth(2) == Some(COPY)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_by_the_name_of_a_function() {
        let new = "0000000000000000 T skb_pp_cow_data\n0000000000000000 T skb_cow_data_for_xdp\n";
        assert!(names_the_copy(new.as_bytes()));
        assert!(!names_the_copy(
            "0000000000000000 T skb_cow_data\n0000000000000000 T x\t[veth]\n".as_bytes()
        ));
        assert!(names_the_copy([0xff, b'\n'].as_slice()), "what cannot be read");
    }
}
