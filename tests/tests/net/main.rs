//! Whole nodes in network namespaces, with the agent as its users run it. Everything is judged with other tools.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod attachments;
mod bad_input;
mod etcd_life;
mod fallback;
mod odd;
mod overlay;
mod reach;
mod repair;
mod restart;
mod wire;
