//! Connection tracking, which does not see the packets of the fast path.
//!
//! [`Timeouts`] say how often flows have to be shown to it so that it does not forget them; [`Conntrack`] gives idle
//! connections the time back that they would have had.

mod entry;
mod prolong;
mod timeouts;

pub use entry::Tuple;
pub use prolong::{Conntrack, Prolonged};
pub use timeouts::Timeouts;
