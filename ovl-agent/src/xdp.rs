//! `--xdp`: whether tunnels are stripped before the kernel makes socket buffers, and in which mode.
//!
//! It helps where a driver runs programs itself and aggregation (GRO) then finds plain packets. It hurts where the driver
//! has to give up more for it than that brings: so `auto` takes it only where nothing speaks against it, and never the
//! generic mode, which comes after aggregation.

use crate::cli;

mod device;
mod features;
mod generic;

pub use device::Device;
pub(crate) use features::Features;

/// How the kernel runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By the driver, before there is a socket buffer.
    Native,
    /// By the stack, on socket buffers (generic XDP).
    Skb,
}

impl Mode {
    /// The name, as `--xdp` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Skb => "skb",
        }
    }
}

/// Which mode, if any, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The mode.
    pub mode: Option<Mode>,
    /// A clause for `status`.
    pub reason: String,
}

impl Choice {
    /// None, because of this.
    pub fn none(reason: impl Into<String>) -> Self {
        Self { mode: None, reason: reason.into() }
    }
}

/// Drivers that run programs natively, hand metadata on to tc, and say of tunnel packets which of their checksums they
/// verified, so that stripping leaves no checksum unchecked.
const KNOWN: [&str; 5] = ["bnxt_en", "i40e", "ice", "ixgbe", "mlx5_core"];

/// What becomes of `--xdp` on a device.
pub fn choose(wanted: cli::Xdp, device: &Device) -> Choice {
    let asked = |mode: Mode| Choice { mode: Some(mode), reason: format!("--xdp {}", mode.name()) };
    match wanted {
        cli::Xdp::Off => Choice::none("--xdp off"),
        cli::Xdp::Native if device.features.is_some_and(|features| !features.gro) => Choice {
            mode: Some(Mode::Native),
            reason: format!(
                "--xdp native; nothing is gained while aggregation is off: `ethtool -K {} gro on`",
                device.name
            ),
        },
        cli::Xdp::Native => asked(Mode::Native),
        cli::Xdp::Skb if generic::hides_the_frame() => Choice::none(
            "--xdp skb: on this kernel, packets that generic XDP has seen reach tc without their Ethernet header",
        ),
        cli::Xdp::Skb => asked(Mode::Skb),
        cli::Xdp::Auto => {
            if let Some(reason) = against(device) {
                return Choice::none(format!("--xdp auto: {reason}"));
            }
            let driver = device.driver.as_deref().unwrap_or_default();
            let reason =
                format!("--xdp auto: {driver} runs programs itself, and GRO then finds plain packets");
            Choice { mode: Some(Mode::Native), reason }
        }
    }
}

/// What speaks against native XDP.
fn against(device: &Device) -> Option<String> {
    let name = &device.name;
    if device.veth {
        return Some(format!(
            "{name} is a veth, whose other end would have to cut every stream into packets itself"
        ));
    }
    let Some(driver) = &device.driver else {
        return Some(format!("{name} is no device with a driver that runs programs"));
    };
    if driver == "virtio_net" {
        // `rx-gro-hw` is its word for what the host does (guest offloads).
        return Some(if device.features.is_none_or(|features| features.gro_hw) {
            format!("{name} is virtio_net's, which would have the host stop to aggregate and to check")
        } else {
            format!(
                "nobody knows yet whether XDP helps virtio_net, the driver of {name}; --xdp native tries it"
            )
        });
    }
    if !KNOWN.contains(&driver.as_str()) {
        return Some(format!(
            "nothing is known of XDP in {driver}, the driver of {name}; --xdp native tries it"
        ));
    }
    let Some(features) = &device.features else {
        return Some(format!("the kernel does not say how {name} is set up"));
    };
    if features.lro || features.gro_hw {
        return Some(format!("{name} aggregates by itself (lro, rx-gro-hw), which would have to stop"));
    }
    if !features.gro {
        return Some(format!(
            "aggregation is off on {name} (generic-receive-offload), so there is nothing to gain"
        ));
    }
    if features.rx_checksum && !features.tunnel_ports {
        return Some(format!(
            "{name} verifies checksums and is not told where tunnels are (rx-udp_tunnel-port-offload is off): it would \
             vouch for the tunnel's where the pod's is meant"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_it_only_where_nothing_speaks_against_it() {
        type Change = fn(&mut Device);
        let good = Device {
            name: "eth0".into(),
            mtu: 1500,
            veth: false,
            driver: Some("mlx5_core".into()),
            features: Some(Features {
                gro: true,
                rx_checksum: true,
                tunnel_ports: true,
                ..Features::default()
            }),
        };
        assert_eq!(choose(cli::Xdp::Auto, &good).mode, Some(Mode::Native));
        let table: [(&str, Change, &str); 10] = [
            ("veth", |d| d.veth = true, "is a veth"),
            ("no driver", |d| d.driver = None, "no device with a driver"),
            ("virtio", virtio, "nobody knows yet whether XDP helps virtio_net"),
            (
                "guest offloads",
                |d| {
                    virtio(d);
                    with(d, |f| f.gro_hw = true);
                },
                "virtio_net's, which would have the host stop to aggregate",
            ),
            ("unknown", |d| d.driver = Some("e1000".into()), "nothing is known of XDP in e1000"),
            ("silent", |d| d.features = None, "does not say"),
            ("lro", |d| with(d, |f| f.lro = true), "aggregates by itself"),
            ("gro-hw", |d| with(d, |f| f.gro_hw = true), "aggregates by itself"),
            ("no gro", |d| with(d, |f| f.gro = false), "nothing to gain"),
            ("ports", |d| with(d, |f| f.tunnel_ports = false), "vouch"),
        ];
        for (name, change, reason) in table {
            let mut device = good.clone();
            change(&mut device);
            let choice = choose(cli::Xdp::Auto, &device);
            assert_eq!(choice.mode, None, "{name}");
            assert!(choice.reason.contains(reason), "{name}: {}", choice.reason);
            assert_eq!(
                choose(cli::Xdp::Native, &device).mode,
                Some(Mode::Native),
                "{name}: who asks gets it"
            );
            assert_eq!(choose(cli::Xdp::Off, &device).mode, None);
        }
        let mut unchecked = good;
        with(&mut unchecked, |f| (f.rx_checksum, f.tunnel_ports) = (false, false));
        assert_eq!(choose(cli::Xdp::Auto, &unchecked).mode, Some(Mode::Native), "the stack verifies");
    }

    fn virtio(device: &mut Device) {
        device.driver = Some("virtio_net".into());
    }

    fn with(device: &mut Device, change: fn(&mut Features)) {
        if let Some(features) = &mut device.features {
            change(features);
        }
    }
}
