//! What every kind of device says of itself.

use ovl_common::Mac;
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

use super::mac;

/// A device, taken from the kernel's message about it. What that lacks is empty or zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkFacts<'m> {
    pub(crate) ifindex: u32,
    pub(crate) name: &'m str,
    pub(crate) alias: &'m str,
    /// Bytes.
    pub(crate) mtu: u32,
    pub(crate) mac: Mac,
    pub(crate) flags: LinkFlags,
    /// Whether its packets have an Ethernet header.
    pub(crate) ethernet: bool,
    /// Whether its other end is in another namespace.
    pub(crate) peer_elsewhere: bool,
    /// Index of the device that it is a port of.
    pub(crate) controller: Option<u32>,
    /// What its kind says of it.
    pub(crate) infos: &'m [LinkInfo],
}

impl<'m> LinkFacts<'m> {
    /// Takes a message apart.
    pub(crate) fn of(message: &'m LinkMessage) -> Self {
        let mut facts = Self {
            ifindex: message.header.index,
            name: "",
            alias: "",
            mtu: 0,
            mac: Mac::default(),
            flags: message.header.flags,
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            peer_elsewhere: false,
            controller: None,
            infos: &[],
        };
        for attribute in &message.attributes {
            if let LinkAttribute::IfName(name) = attribute {
                facts.name = name;
            } else if let LinkAttribute::IfAlias(alias) = attribute {
                facts.alias = alias;
            } else if let LinkAttribute::Mtu(mtu) = attribute {
                facts.mtu = *mtu;
            } else if let LinkAttribute::Address(bytes) = attribute {
                facts.mac = mac(bytes);
            } else if let LinkAttribute::Controller(index) = attribute {
                facts.controller = Some(*index);
            } else if let LinkAttribute::LinkNetNsId(_) = attribute {
                facts.peer_elsewhere = true;
            } else if let LinkAttribute::LinkInfo(infos) = attribute {
                facts.infos = infos;
            }
        }
        facts
    }

    /// Whether it is up.
    pub(crate) fn is_up(&self) -> bool {
        self.flags.contains(LinkFlags::Up)
    }

    /// Its kind; a device of hardware has none.
    pub(crate) fn kind(&self) -> Option<&'m InfoKind> {
        self.infos.iter().find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind) } else { None })
    }
}
