//! What etcd was asked, as its own metrics have it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// How often it was asked, by method (`Range`, `Txn`, …). What is said inside a stream counts one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Requests(BTreeMap<String, u64>);

impl Requests {
    /// Reads a page of metrics.
    pub(super) fn parse(page: &str) -> Result<Self> {
        let mut requests = BTreeMap::new();
        for line in page.lines() {
            let Some(sample) = line.strip_prefix("grpc_server_msg_received_total{") else { continue };
            let (labels, count) = sample.rsplit_once("} ").context("a sample without a value")?;
            let method = labels.split(',').find_map(|label| label.strip_prefix("grpc_method="));
            let method = method.context("a sample without a method")?.trim_matches('"');
            // A counter that has grown large is written as 1e+06.
            let count: f64 = count.parse().with_context(|| format!("read the count of {method}"))?;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
            let count = count as u64;
            *requests.entry(method.to_owned()).or_default() += count;
        }
        Ok(Self(requests))
    }

    /// Those since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let more = self
            .0
            .iter()
            .map(|(method, count)| (method.clone(), count.saturating_sub(earlier.count(method))));
        Self(more.filter(|(_, count)| *count > 0).collect())
    }

    /// How often `method` was used.
    pub(super) fn count(&self, method: &str) -> u64 {
        self.0.get(method).copied().unwrap_or(0)
    }

    pub(super) fn json(&self) -> Value {
        json!(self.0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(method, count)| (method.as_str(), *count))
    }
}

/// `Range 3, Watch 2`.
impl std::fmt::Display for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<_> = self.iter().map(|(method, count)| format!("{method} {count}")).collect();
        f.write_str(if parts.is_empty() { "none" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_of_two_pages_is_what_was_asked_between_them() {
        let page = |range: u64| {
            let line = |method: &str, count| {
                format!(
                    "grpc_server_msg_received_total{{grpc_method=\"{method}\",grpc_type=\"unary\"}} {count}\n"
                )
            };
            format!(
                "# HELP x\ngrpc_server_started_total{{grpc_method=\"Range\"}} 9\n{}{}",
                line("Range", range),
                line("Txn", 2)
            )
        };
        let [before, after] = [3, 1_000_005].map(|range| Requests::parse(&page(range)).unwrap());
        assert_eq!(after.since(&before).to_string(), "Range 1000002");
        assert_eq!(before.to_string(), "Range 3, Txn 2");
        assert_eq!(before.since(&before).to_string(), "none");
        let large = "grpc_server_msg_received_total{grpc_method=\"Put\"} 1e+06";
        assert_eq!(Requests::parse(large).unwrap().to_string(), "Put 1000000");
    }
}
