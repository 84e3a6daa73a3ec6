//! Programs and filters of other tools on the interfaces that ours are on: each sees what it should, none is moved.

mod filters;
mod foreign;
mod tcx;

use std::time::{Duration, Instant};

use ovl_tests::flow::Flow;
use ovl_tests::wait::wait_for;

use crate::overlay::SOON;

/// A flow of a message every 10 ms that is silent for so long has stopped.
const SILENCE: Duration = Duration::from_millis(500);
fn wait_for_silence(flow: &Flow) {
    let mut last = (flow.answered(), Instant::now());
    wait_for("no more answers", SOON, || {
        let answered = flow.answered();
        if answered != last.0 {
            last = (answered, Instant::now());
        }
        Ok(last.1.elapsed() > SILENCE)
    })
    .unwrap();
}
