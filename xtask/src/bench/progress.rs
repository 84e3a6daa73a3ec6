//! What is being measured, and how much longer it takes.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// A line that changes with every step; in a log, one line per part.
pub(super) struct Progress {
    begin: Instant,
    steps: usize,
    done: usize,
    part: String,
    terminal: bool,
}

impl Progress {
    /// Begins to count.
    pub(super) fn new(steps: usize) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self { begin: Instant::now(), steps, done: 0, part: String::new(), terminal }
    }

    /// A step begins: `what` of a part such as a workload of a round.
    pub(super) fn step(&mut self, part: &str, what: &str) {
        let left = left(self.begin.elapsed(), self.done, self.steps);
        if self.terminal {
            // Until the end of the line is erased: the one before may have been longer.
            print!("\r\x1b[K    {part}, {what}{left}");
            // A terminal that went away does not matter to the work.
            let _shown = std::io::stdout().flush();
        } else if self.part != part {
            println!("    {part}{left}");
        }
        part.clone_into(&mut self.part);
        self.done += 1;
    }

    /// Something that has to be said in between.
    pub(super) fn say(&self, text: &str) {
        println!("{}    {text}", if self.terminal { "\r\x1b[K" } else { "" });
    }
}

/// Ends the line.
impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            println!("\r\x1b[K    {} s", self.begin.elapsed().as_secs());
        }
    }
}

/// How long the rest takes when it takes as long as what is done.
fn left(elapsed: Duration, done: usize, steps: usize) -> String {
    let (Ok(done), Ok(rest)) = (u32::try_from(done), u32::try_from(steps.saturating_sub(done))) else {
        return String::new();
    };
    if done == 0 {
        return String::new();
    }
    let seconds = (elapsed / done * rest).as_secs();
    let minutes = seconds.div_ceil(60);
    if seconds < 90 { format!(" ({seconds} s left)") } else { format!(" ({minutes} min left)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_expected_to_take_as_long() {
        let seconds = Duration::from_secs;
        assert_eq!(left(seconds(0), 0, 10), "");
        assert_eq!(left(seconds(30), 3, 10), " (70 s left)");
        assert_eq!(left(seconds(30), 3, 100), " (17 min left)");
        assert_eq!(left(seconds(30), 30, 10), " (0 s left)");
    }
}
