//! Prometheus' text format 0.0.4.

use std::fmt::{Display, Write as _};

/// What a family's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows while the agent runs.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// A page as it is written.
#[derive(Debug, Default)]
pub(super) struct Page(String);

impl Page {
    /// A family of counters; samples are labels with a value.
    pub(super) fn counter<'a, const N: usize, V: Display>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([(&'a str, &'a str); N], V)>,
    ) {
        self.family(Kind::Counter, name, help, samples);
    }

    /// A family of gauges.
    pub(super) fn gauge<'a, const N: usize, V: Display>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([(&'a str, &'a str); N], V)>,
    ) {
        self.family(Kind::Gauge, name, help, samples);
    }

    /// The text.
    pub(super) fn finish(self) -> String {
        self.0
    }

    fn family<'a, const N: usize, V: Display>(
        &mut self,
        kind: Kind,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([(&'a str, &'a str); N], V)>,
    ) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        // Writing to a string cannot fail.
        let _written = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, value) in samples {
            self.0.push_str(name);
            let labels = labels.map(|(label, text)| format!("{label}=\"{}\"", escape(text)));
            if !labels.is_empty() {
                let _written = write!(self.0, "{{{}}}", labels.join(","));
            }
            let _written = writeln!(self.0, " {value}");
        }
    }
}

/// A label's value may be any text, which etcd's users choose; these three characters would end it.
fn escape(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_written_as_the_format_says() {
        let mut page = Page::default();
        page.gauge("a_bytes", "One.\nTwo \\.", [([], 7)]);
        page.counter("b_total", "Three.", [([("x", "1"), ("y", "2")], 0.25), ([("x", "3"), ("y", "")], 4.0)]);
        page.counter("c_total", "None.", Vec::<([(&str, &str); 0], u64)>::new());
        let expected = "\
# HELP a_bytes One.\\nTwo \\\\.
# TYPE a_bytes gauge
a_bytes 7
# HELP b_total Three.
# TYPE b_total counter
b_total{x=\"1\",y=\"2\"} 0.25
b_total{x=\"3\",y=\"\"} 4
";
        assert_eq!(page.finish(), expected);
    }

    #[test]
    fn a_label_cannot_end_its_line_or_make_another() {
        for (text, escaped) in [
            ("vxlan", "vxlan"),
            (r#"a"} 1"#, r#"a\"} 1"#),
            ("a\nb_total 9", r"a\nb_total 9"),
            (r"back\slash", r"back\\slash"),
            ("größe", "größe"),
        ] {
            assert_eq!(escape(text), escaped);
        }
    }
}
