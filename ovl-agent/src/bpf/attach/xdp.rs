//! The program of XDP: attached in a mode, or why that cannot be, in one sentence each.

use std::error::Error;
use std::io;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{Xdp, XdpMode};
use nix::libc;
use rtnetlink::Handle;
use tokio::time::{sleep, timeout};

use super::super::load::{LoadError, NO_RIGHTS};
use super::super::pins::Pins;
use super::{Attaching, Attachment, AttachmentTable, Held, Hook, Way};
use crate::netlink::{interfaces, xdp_program};
use crate::xdp::{Device, Mode};

const ANOTHER: &str = "take that off, or leave --xdp off";
const NO_MODE: &str = "leave --xdp off: the program at tc strips tunnels as well";

impl Attaching<'_> {
    fn xdp(&mut self) -> Result<&mut Xdp> {
        self.programs.xdp()
    }

    /// Attaches the program of XDP, which is loaded for it. Where an earlier agent's is attached in this mode, ours takes
    /// its place in one step.
    pub(super) async fn attach_xdp(
        &mut self,
        hook: Hook,
        attachment: &Attachment,
        mode: Mode,
    ) -> Result<Held> {
        let (handle, pins) = (self.table.handle.clone(), self.table.pins.clone());
        let device = Device::look(&attachment.interface, self.table.mtu(hook.ifindex).await, false);
        let program = self.xdp()?;
        if program.fd().is_err() {
            let step = "loading from_wire_xdp, which takes Linux 5.18,";
            program.load().map_err(|error| LoadError::of(step, &error))?;
            if let Some(pins) = &pins {
                let path = pins.program(hook.program);
                Pins::remove(&path)?;
                program.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
            }
        }
        let path = pins.as_ref().map(|pins| pins.link(hook));
        if let Some(path) = &path
            && let Ok(pinned) = PinnedLink::from_pin(path)
        {
            let is_in_mode = xdp_program(&handle, hook.ifindex, mode).await?.is_some();
            let link = XdpLink::try_from(FdLink::from(pinned)).ok().filter(|_| is_in_mode);
            if let Some(link) = link
                && let Ok(id) = program.attach_to_link(link)
            {
                // The pin keeps the link.
                let link = program.take_link(id).context("aya lost a link")?;
                return Ok(Held { attachment: attachment.clone(), way: Way::Xdp(link) });
            }
            Pins::remove(path)?;
            // The kernel lets go of it a moment after its last pin and descriptor.
            let gone = async {
                while is_taken(&handle, hook.ifindex).await? {
                    sleep(Duration::from_millis(2)).await;
                }
                anyhow::Ok(())
            };
            timeout(Duration::from_secs(1), gone).await.unwrap_or(Ok(()))?;
        }
        let flags = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Skb => XdpMode::Skb,
        };
        let id = program
            .attach_to_if_index(hook.ifindex, flags)
            .map_err(|error| refused(&device, mode, &error))?;
        let link = program.take_link(id).context("aya lost a link")?;
        let Some(path) = path else {
            return Ok(Held { attachment: attachment.clone(), way: Way::Xdp(link) });
        };
        let link = FdLink::try_from(link).context("this kernel has no links of XDP, which came with 5.9")?;
        let pinned = link.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
        Ok(Held { attachment: attachment.clone(), way: Way::Pinned(pinned) })
    }

    /// Whether our program of XDP is what an interface runs in a mode.
    pub(super) async fn runs_xdp(&mut self, ifindex: u32, mode: Mode) -> Result<bool> {
        let handle = self.table.handle.clone();
        let ours = self.xdp()?.info().context("cannot ask about a BPF program")?.id();
        Ok(xdp_program(&handle, ifindex, mode).await? == Some(ours))
    }
}

impl AttachmentTable {
    /// The MTU of an interface; 0 where it is gone.
    async fn mtu(&self, ifindex: u32) -> u32 {
        let interfaces = interfaces(&self.handle).await.unwrap_or_default();
        interfaces.get(&ifindex).map_or(0, |interface| interface.mtu)
    }
}

/// Whether a device runs any program of XDP.
async fn is_taken(handle: &Handle, ifindex: u32) -> Result<bool> {
    let native = xdp_program(handle, ifindex, Mode::Native).await?;
    Ok(native.is_some() || xdp_program(handle, ifindex, Mode::Skb).await?.is_some())
}

/// What attaching to a device came to.
fn refused(device: &Device, mode: Mode, error: &(dyn Error + 'static)) -> LoadError {
    let step = format!("attaching from_wire_xdp to {} in {} mode", device.name, mode.name());
    let Some((reason, advice)) = errno(error).and_then(|errno| explain(device, mode, errno)) else {
        return LoadError { advice: NO_MODE, ..LoadError::of(&step, error) };
    };
    LoadError { step, reason, advice }
}

fn explain(device: &Device, mode: Mode, errno: i32) -> Option<(String, &'static str)> {
    let features = device.features.unwrap_or_default();
    let is_virtio = device.driver.as_deref() == Some("virtio_net");
    let is_native = mode == Mode::Native;
    Some(match errno {
        libc::EPERM | libc::EACCES => ("not permitted".to_owned(), NO_RIGHTS),
        libc::EBUSY => ("another program of XDP is attached there".to_owned(), ANOTHER),
        libc::EEXIST => (
            "another program of XDP is attached there in the other mode, and a device has one at a time".to_owned(),
            ANOTHER,
        ),
        libc::EINVAL | libc::EOPNOTSUPP if is_native && features.lro => (
            "large receive offload is on, with which its driver has no XDP".to_owned(),
            "switch it off (`ethtool -K DEVICE lro off`), or leave --xdp off",
        ),
        libc::EINVAL | libc::EOPNOTSUPP if is_native && (features.gro_hw || is_virtio) => (
            "the host of this virtual machine, or the device, aggregates or checks packets for it (guest offloads), with \
             which its driver has no XDP"
                .to_owned(),
            "switch that off (`ethtool -K DEVICE rx-gro-hw off rx-checksum off`, or guest_tso4=off,guest_tso6=off,\
             guest_csum=off at the host), or leave --xdp off",
        ),
        libc::EOPNOTSUPP if is_native => ("its driver has no XDP".to_owned(), NO_MODE),
        libc::EOPNOTSUPP => ("this kind of device has no generic XDP".to_owned(), NO_MODE),
        libc::ERANGE | libc::EINVAL | libc::EMSGSIZE if is_native && device.mtu > LARGE || errno == libc::ERANGE => (
            format!("an MTU of {}, or that of its other end, is more than its driver takes with XDP", device.mtu),
            "make it smaller, or leave --xdp off",
        ),
        libc::ENOSPC => (
            "it has fewer receive queues than its other end has transmit queues".to_owned(),
            "give it as many (`ethtool -L`), or leave --xdp off",
        ),
        libc::ENOMEM => (
            "its driver lacks memory or free queues".to_owned(),
            "leave it fewer queues (`ethtool -L`), or leave --xdp off",
        ),
        libc::ENODEV => ("it is gone".to_owned(), "nothing: it is tried again when it is back"),
        _ => return None,
    })
}

/// What the smallest buffers of drivers hold: a page less headroom and what the kernel keeps behind it.
const LARGE: u32 = 3000;

fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(inner) = cause {
        if let Some(errno) = inner.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(errno);
        }
        cause = inner.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xdp::Features;

    #[test]
    fn every_refusal_has_its_own_sentence() {
        let device = |mtu, driver: &str, features| Device {
            name: "eth0".into(),
            mtu,
            veth: false,
            driver: Some(driver.into()),
            features: Some(features),
        };
        let plain = device(1500, "e1000", Features::default());
        let lro = device(1500, "ixgbe", Features { lro: true, ..Features::default() });
        let table = [
            (&plain, Mode::Native, libc::EBUSY, "another program of XDP is attached there;"),
            (&plain, Mode::Native, libc::EEXIST, "in the other mode"),
            (&plain, Mode::Native, libc::EOPNOTSUPP, "its driver has no XDP;"),
            (&plain, Mode::Skb, libc::EOPNOTSUPP, "no generic XDP"),
            (&plain, Mode::Native, libc::ERANGE, "an MTU of 1500"),
            (&device(9000, "e1000", Features::default()), Mode::Native, libc::EINVAL, "an MTU of 9000"),
            (&lro, Mode::Native, libc::EINVAL, "large receive offload"),
            (
                &device(1500, "virtio_net", Features::default()),
                Mode::Native,
                libc::EOPNOTSUPP,
                "guest offloads",
            ),
            (&plain, Mode::Native, libc::ENOSPC, "fewer receive queues"),
            (&plain, Mode::Native, libc::ENOMEM, "memory or free queues"),
            (&plain, Mode::Native, libc::EPERM, "CAP_BPF"),
            (&plain, Mode::Native, libc::EIO, "Input/output error"),
        ];
        for (device, mode, errno, said) in table {
            let error = refused(device, mode, &io::Error::from_raw_os_error(errno)).to_string();
            assert!(error.contains(said), "{errno}: {error}");
            assert!(error.starts_with("attaching from_wire_xdp to eth0 in "), "{error}");
        }
    }
}
