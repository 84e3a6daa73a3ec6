//! Whole nodes in network namespaces, with the agent as its users run it. Everything is judged with other tools.

mod bad_input;
mod fallback;
mod overlay;
mod reach;
mod repair;
mod restart;
mod wire;
