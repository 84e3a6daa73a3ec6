//! The node agent: takes a lease, keeps the kernel's tables and the BPF maps equal to the leases.
//!
//! `store` says who owns which subnet; `backend` is a pure function from that to rows; a `table` is the only thing
//! with effects; `reconcile` makes tables equal to what the backend said. `agent` is the loop around them.

pub mod agent;
pub mod backend;
pub mod bpf;
pub mod cleanup;
pub mod cli;
pub mod cni;
pub mod conntrack;
pub mod control;
pub mod docker_opts;
pub mod facts;
pub mod family;
pub mod fast_path;
pub mod file;
pub mod firewall;
pub mod flows;
pub mod http;
pub mod instance;
pub mod lease;
pub mod metrics;
pub mod netlink;
pub mod network;
pub mod node;
pub mod notify;
pub mod probe;
pub mod reconcile;
pub mod startup;
pub mod status;
pub mod store;
pub mod subnet_env;
pub mod sysctl;
pub mod table;
pub mod tables;
pub mod trace;
pub mod udp;
pub mod underlay;
pub mod view;
pub mod xdp;
