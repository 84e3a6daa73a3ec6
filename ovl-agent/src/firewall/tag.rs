//! The part of an overlay's name that fits into the names of chains.

/// A chain of iptables has at most 28 bytes; `FLANNEL-POSTRTG-` takes 16.
const LONGEST: usize = 12;

/// `overlay`, in letters that iptables and nft take, or a number made of it.
pub(super) fn tag(overlay: &str) -> String {
    let fits = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    if !overlay.is_empty() && overlay.len() <= LONGEST && overlay.chars().all(fits) {
        return overlay.to_owned();
    }
    // FNV-1a: the next version of the agent has to find the same name.
    let hash = overlay
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_readable_where_they_can_be() {
        assert_eq!(tag("flannel.1"), "flannel.1");
        assert_eq!(tag("flannel.4096"), "flannel.4096");
        for long in ["flannel.16777215", "10.42.0.0/16", "", "a b"] {
            let tag = tag(long);
            assert!(tag.len() == 8 && tag.bytes().all(|byte| byte.is_ascii_hexdigit()), "{long}: {tag}");
        }
        assert_eq!(tag(""), "811c9dc5", "as it was in every version");
        assert_ne!(tag("10.42.0.0/16"), tag("10.43.0.0/16"));
    }
}
