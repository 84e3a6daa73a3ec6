//! The BPF side: the object, its maps as tables, and where its programs are attached.

mod attach;
mod batch;
mod count;
mod counters;
pub mod features;
pub(crate) mod filters;
mod flows;
mod load;
mod maps;
pub(crate) mod pins;
mod programs;
mod trial;

pub use attach::{Attaching, Attachment, AttachmentTable, Hook, TcAttach, TcxOrder, is_gone};
pub use counters::{Counter, counters};
pub use flows::FlowMap;
pub use load::{DataPlane, LoadError, ObjectSource};
pub use maps::{Abi, NodeTable, PortTable, Pulse, RemoteTable, StateTable, pinned_config, prune_learned};
pub use pins::Pins;
pub use programs::{Programs, name as program_name};
pub(crate) use trial::Trial;
