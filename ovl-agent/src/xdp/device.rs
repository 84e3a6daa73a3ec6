//! The underlay device, as far as XDP cares.

use std::fs;

use super::Features;

/// A device and how it is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// Whether it is a veth.
    pub veth: bool,
    /// The driver of the hardware behind it; `None` for devices that the kernel makes up.
    pub driver: Option<String>,
    /// Its offloads; `None` where the kernel does not say.
    pub features: Option<Features>,
}

impl Device {
    /// Looks at a device.
    pub fn look(name: &str, mtu: u32, veth: bool) -> Self {
        let driver = fs::read_link(format!("/sys/class/net/{name}/device/driver")).ok();
        let driver =
            driver.as_deref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into());
        Self { name: name.to_owned(), mtu, veth, driver, features: Features::read(name).ok() }
    }
}
