//! A store to test, and a hand behind its back.

use std::time::Duration;

use ovl_agent::store::Store;

/// Longer than anything here takes on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// An empty store of one kind.
pub(crate) trait Fixture {
    /// The kind.
    type Store: Store;

    /// Sets it up.
    fn start() -> Self;

    /// Opens it; each call makes an agent of its own.
    async fn open(&self) -> Self::Store;

    /// Writes an item, such as `config` or `subnets/10.42.3.0-24`.
    fn put(&self, item: &str, value: &str);

    /// Deletes an item.
    fn delete(&self, item: &str);

    /// Takes the store away from its agents, contents and all.
    fn begin_outage(&mut self);

    /// Gives it back as it was.
    fn end_outage(&mut self);

    /// What tells another process how to open it.
    fn address(&self) -> String;
}

/// Waits for something that must not take long.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let Ok(done) = tokio::time::timeout(DEADLINE, future).await else {
        panic!("waited {DEADLINE:?} in vain for {what}")
    };
    done
}
