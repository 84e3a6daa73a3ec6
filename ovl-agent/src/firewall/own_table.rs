//! A table of nftables that we always write whole, and what the kernel makes of it.
//!
//! What the kernel shows is not what was written: how it stores a rule is its own affair, and differs between versions.
//! So the number for what stands is learned after each write, and only compared.

use anyhow::Result;

use super::fingerprint::{self, Place};
use super::generation;

/// How often one look writes the table to learn what the kernel makes of it.
const WRITES: usize = 2;

/// What the agent knows of its table.
#[derive(Debug, Default)]
pub(super) struct OwnTable {
    /// What was written last.
    written: Option<Written>,
}

/// A script and what the kernel made of it.
#[derive(Debug, PartialEq, Eq)]
struct Written {
    script: String,
    /// The number for what stood afterwards.
    stood: u64,
    /// Whether nobody else had a hand in that.
    certain: bool,
}

impl Written {
    /// Whether this script came to this.
    fn says(&self, script: &str, stood: u64) -> bool {
        self.script == script && self.stood == stood
    }
}

impl OwnTable {
    /// What is wrong with the table, of which the kernel says `standing` and which should be as `script` writes it.
    pub(super) fn fault(&self, script: &str, standing: Option<u64>) -> Option<&'static str> {
        match (&self.written, standing) {
            (Some(written), Some(standing)) if written.says(script, standing) && written.certain => None,
            (_, None) => Some("was missing"),
            (Some(written), Some(_)) if written.script == script => Some("had been changed"),
            (_, Some(_)) => Some("was of another time"),
        }
    }

    /// Has `apply` write the table, until it is certain what the kernel makes of it; `apply` returns its script.
    pub(super) async fn write(
        &mut self,
        places: &[Place],
        mut apply: impl AsyncFnMut() -> Result<String>,
    ) -> Result<()> {
        for _ in 0..WRITES {
            let before = generation::now()?;
            let script = apply().await?;
            let stood = fingerprint::of(places)?;
            let alone = generation::now()? == before.map(|before| before.wrapping_add(1));
            let last = self.written.take();
            // No transaction came between, or two writes came to the same.
            self.written = stood.map(|stood| {
                let certain = alone || last.is_some_and(|last| last.says(&script, stood));
                Written { script, stood, certain }
            });
            if self.written.as_ref().is_none_or(|written| written.certain) {
                break;
            }
        }
        Ok(())
    }

    /// The table is gone.
    pub(super) fn forget(&mut self) {
        self.written = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_right_only_as_it_was_written() {
        let written =
            |certain| OwnTable { written: Some(Written { script: "rules".to_owned(), stood: 5, certain }) };
        assert_eq!(written(true).fault("rules", Some(5)), None);
        assert_eq!(written(true).fault("rules", Some(6)), Some("had been changed"));
        assert_eq!(written(false).fault("rules", Some(5)), Some("had been changed"));
        assert_eq!(written(true).fault("others", Some(5)), Some("was of another time"));
        assert_eq!(OwnTable::default().fault("rules", Some(5)), Some("was of another time"));
        for table in [written(true), OwnTable::default()] {
            assert_eq!(table.fault("rules", None), Some("was missing"));
        }
    }
}
