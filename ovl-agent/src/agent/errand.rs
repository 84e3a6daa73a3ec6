//! Work that goes on beside the loop: it may take as long as a store's time-outs or another program's lock, and the
//! programs' deadline must not wait for it.

use std::future::Future;
use std::pin::Pin;

/// At most one piece of work under way.
pub(super) struct Errand<'a, T>(Option<Pin<Box<dyn Future<Output = T> + 'a>>>);

impl<'a, T> Errand<'a, T> {
    /// None under way.
    pub(super) fn idle() -> Self {
        Self(None)
    }

    /// Begins `work`; what was under way is given up.
    pub(super) fn begin(&mut self, work: impl Future<Output = T> + 'a) {
        self.0 = Some(Box::pin(work));
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.0.is_none()
    }

    /// The result of what is under way; never, where nothing is. Can be cancelled and asked again.
    pub(super) async fn done(&mut self) -> T {
        match &mut self.0 {
            Some(work) => {
                let result = work.as_mut().await;
                self.0 = None;
                result
            }
            None => std::future::pending().await,
        }
    }
}
