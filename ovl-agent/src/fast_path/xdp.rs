//! Stripping before the kernel makes socket buffers: chosen, attached, and told the programs.

use ovl_common::Program;
use tracing::{info, warn};

use crate::bpf::{Attaching, Attachment, Hook};
use crate::cli;
use crate::netlink::Interface;
use crate::node::Underlay;
use crate::table::Table as _;
use crate::xdp::{Choice, Device, Mode, choose};

/// The state of `--xdp`.
#[derive(Debug)]
pub(super) struct Xdp {
    wanted: cli::Xdp,
    /// What marks stripped packets.
    token: u64,
    choice: Choice,
    /// What the kernel refused: tried again when the device is another, or set up otherwise.
    refused: Option<(Device, String)>,
}

impl Xdp {
    /// Before anything is chosen. `before` is the token of an earlier agent, whose packets may be on their way.
    pub(super) fn new(wanted: cli::Xdp, before: u64) -> Self {
        // Even and not 0.
        let token = if before == 0 { rand::random::<u64>() & !1 | 2 } else { before };
        Self { wanted, token, choice: Choice::none("not looked at yet"), refused: None }
    }

    /// The mode, and why that.
    pub(super) fn choice(&self) -> &Choice {
        &self.choice
    }

    /// `Config::token`.
    pub(super) fn token(&self) -> u64 {
        if self.choice.mode.is_some() { self.token } else { 0 }
    }

    /// `Config::xdp_after_gro`.
    pub(super) fn comes_after_gro(&self) -> bool {
        self.choice.mode == Some(Mode::Skb)
    }

    /// Attaches the program where that is chosen, and returns where it belongs. `idle` says why there is nothing to strip.
    pub(super) async fn arrange(
        &mut self,
        underlay: &Underlay,
        interface: Option<&Interface>,
        idle: Option<&str>,
        attaching: &mut Attaching<'_>,
    ) -> Option<(Hook, Attachment)> {
        let device = Device::look(&underlay.name, underlay.mtu, interface.is_some_and(|found| found.veth));
        let choice = match idle {
            Some(reason) if self.wanted != cli::Xdp::Off => Choice::none(reason),
            _ => choose(self.wanted, &device),
        };
        let Some(mode) = choice.mode else {
            self.choose(choice);
            return None;
        };
        let hook = Hook { ifindex: underlay.ifindex, program: Program::FromWireXdp };
        let attachment = Attachment { xdp: Some(mode), ..Attachment::tc(&underlay.name) };
        if attaching.holds(&hook, &attachment) {
            self.choose(choice);
            return Some((hook, attachment));
        }
        let known = self.refused.take().filter(|(refused, _)| *refused == device);
        let refused = match known {
            Some((_, refused)) => refused,
            None => match attaching.put(&hook, &attachment).await {
                Ok(()) => {
                    self.choose(choice);
                    return Some((hook, attachment));
                }
                Err(error) => {
                    let refused = format!("{error:#}");
                    warn!("tunnels are stripped at tc, not by XDP: {refused}");
                    refused
                }
            },
        };
        self.choice = Choice::none(refused.clone());
        self.refused = Some((device, refused));
        None
    }

    fn choose(&mut self, choice: Choice) {
        if self.choice != choice && self.wanted != cli::Xdp::Off {
            info!("tunnels stripped by XDP: {} ({})", choice.mode.map_or("none", Mode::name), choice.reason);
        }
        self.refused = None;
        self.choice = choice;
    }
}
