//! Whole nodes in network namespaces, with the agent as its users run it. Everything is judged with other tools.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod attachments;
mod bad_input;
mod cleanup;
mod command_line;
mod config_change;
mod conntrack;
mod direct_routing;
mod dual_stack;
mod etcd_life;
mod fallback;
mod firewall;
mod interface;
mod leftovers;
mod listing;
mod masquerade;
mod matrix;
mod nested;
mod next_hop;
mod node_changes;
mod odd;
mod overlay;
mod policies;
mod prolong;
mod reach;
mod repair;
mod restart;
mod reuse;
mod rows;
mod rows_kept;
mod services;
mod stock_peer;
mod takeover;
mod verification;
mod verified;
mod wire;
