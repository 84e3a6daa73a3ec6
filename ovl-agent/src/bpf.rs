//! The BPF side: the object, its maps as tables, and where its programs are attached.

mod attach;
mod counters;
mod load;
mod maps;

pub(crate) use attach::PRIORITY;
pub use attach::{Attachment, AttachmentTable, Hook, TcAttach};
pub use counters::{Counter, counters};
pub use load::{DataPlane, LoadError, ObjectSource};
pub use maps::{Abi, PortTable, RemoteTable, StateTable, prune_learned};
