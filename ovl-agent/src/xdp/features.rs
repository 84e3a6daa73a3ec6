//! A device's offloads, as `ethtool -k` shows them (`linux/ethtool.h`).

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc::{self, c_char};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
/// `ETH_SS_FEATURES`, the set of the features' names.
const FEATURES: u32 = 4;
/// `ETH_GSTRING_LEN`.
const NAME: usize = 32;
/// More than any kernel has.
const MOST: usize = 512;

/// Those that matter to XDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are switches, one field each")]
pub struct Features {
    /// `rx-lro`: the device aggregates TCP, and forgets how.
    pub lro: bool,
    /// `rx-gro`: the kernel aggregates.
    pub gro: bool,
    /// `rx-gro-hw`: the device, or the host of a virtual machine, does.
    pub gro_hw: bool,
    /// `rx-checksum`: the device verifies checksums.
    pub rx_checksum: bool,
    /// `rx-udp_tunnel-port-offload`: the device is told which ports tunnels use.
    pub tunnel_ports: bool,
}

impl Features {
    /// Asks the kernel.
    ///
    /// # Errors
    /// Where there is no such device, or the kernel has no such question.
    pub fn read(device: &str) -> nix::Result<Self> {
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        let ask = |words: &mut [u32]| ask(&socket, device, words);
        // struct ethtool_sset_info: command, reserved, a mask of 64 bits, a count for each bit.
        let mut info = [ETHTOOL_GSSET_INFO, 0, 0, 0, 0];
        let [_, _, low, high, _] = &mut info;
        let [mask_low, mask_high]: [u32; 2] = bytemuck::cast(1u64 << FEATURES);
        (*low, *high) = (mask_low, mask_high);
        ask(&mut info)?;
        let [.., count] = info;
        let count = usize::try_from(count).unwrap_or(0).min(MOST);
        let length = u32::try_from(count).unwrap_or(0);
        // struct ethtool_gstrings: command, set, length, the names.
        let mut names = vec![0; 3 + count * NAME / 4];
        names.splice(..3, [ETHTOOL_GSTRINGS, FEATURES, length]);
        ask(&mut names)?;
        // struct ethtool_gfeatures: command, size in blocks, blocks of available, requested, active, never changed.
        let blocks = length.div_ceil(32);
        let mut features = vec![0; 2 + 4 * usize::try_from(blocks).unwrap_or(0)];
        features.splice(..2, [ETHTOOL_GFEATURES, blocks]);
        ask(&mut features)?;
        let names: &[u8] = bytemuck::cast_slice(names.get(3..).unwrap_or_default());
        let is_on = |wanted: &str| {
            let position = names.chunks(NAME).position(|name| {
                let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
                name.get(..end) == Some(wanted.as_bytes())
            });
            position.is_some_and(|bit| {
                let active = features.get(2 + bit / 32 * 4 + 2);
                active.is_some_and(|word| word >> (bit % 32) & 1 != 0)
            })
        };
        Ok(Self {
            lro: is_on("rx-lro"),
            gro: is_on("rx-gro"),
            gro_hw: is_on("rx-gro-hw"),
            rx_checksum: is_on("rx-checksum"),
            tunnel_ports: is_on("rx-udp_tunnel-port-offload"),
        })
    }
}

/// One question: the kernel reads what `words` begins with, and writes the answer into it.
fn ask(socket: &OwnedFd, device: &str, words: &mut [u32]) -> nix::Result<()> {
    if device.len() >= libc::IFNAMSIZ {
        return Err(Errno::ENAMETOOLONG);
    }
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: words.as_mut_ptr().cast() },
    };
    for (place, byte) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *place = c_char::from_ne_bytes([byte]);
    }
    // SAFETY: each command says in its own header how much the kernel may write, and `words` has that room; it and the
    // request outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_has_features_and_one_that_is_not_there_has_none() {
        let features = Features::read("lo").expect("every namespace has it");
        assert!(features.rx_checksum && !features.lro && !features.gro_hw, "{features:?}");
        assert_eq!(Features::read("nonesuch"), Err(Errno::ENODEV));
        assert_eq!(Features::read("a-name-that-is-too-long"), Err(Errno::ENAMETOOLONG));
    }
}
