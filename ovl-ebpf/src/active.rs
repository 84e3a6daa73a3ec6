//! Whether the programs may act at all.

use ovl_common::{ABI, Config, FastPath, IpKey, Reason};

use crate::tables::Tables;

/// The node's configuration, where the agent wrote it, is alive and wants the fast path.
#[inline(always)]
pub fn active<T: Tables>(tables: &T) -> Result<&Config, Reason> {
    let config = tables.config().ok_or(Reason::NoConfig)?;
    if config.abi != ABI {
        return Err(Reason::NoConfig);
    }
    if config.fast_path != FastPath::Always as u32 {
        return Err(Reason::FastPathOff);
    }
    if tables.now() > config.deadline {
        return Err(Reason::Expired);
    }
    Ok(config)
}

/// Whether `address` lies in this node's own subnet (IPv4: 96 to 128 bits count).
#[inline(always)]
pub fn is_local(config: &Config, address: IpKey) -> bool {
    let host_bits = 128u32.saturating_sub(config.local_bits).min(31);
    let difference =
        u32::from_be_bytes(address.ipv4_octets()) ^ u32::from_be_bytes(config.local_subnet.ipv4_octets());
    difference >> host_bits == 0
}
