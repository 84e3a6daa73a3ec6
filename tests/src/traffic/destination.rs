//! Which of a pod's addresses to send to.

use std::net::IpAddr;

use crate::pod::Pod;

/// A pod, by one of its addresses.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'pod> {
    /// The pod.
    pub pod: &'pod Pod,
    /// One of its addresses.
    pub address: IpAddr,
}

impl<'pod> Destination<'pod> {
    /// Every address of a pod, IPv4 first.
    pub fn all(pod: &'pod Pod) -> impl Iterator<Item = Self> {
        pod.addresses().map(move |address| Self { pod, address })
    }
}

/// By its first address.
impl<'pod> From<&'pod Pod> for Destination<'pod> {
    fn from(pod: &'pod Pod) -> Self {
        Self { pod, address: pod.address() }
    }
}
