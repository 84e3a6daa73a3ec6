//! The kernels that the tests run on.

use std::fmt;

use clap::ValueEnum;

/// A series of Debian's kernels. The releases of one differ in fixes alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Series {
    /// Debian 11: the oldest that is still around.
    #[value(name = "5.10")]
    V5_10,
    /// Debian 12: clsact filters, no tcx.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13: tcx and netkit.
    #[value(name = "6.12")]
    V6_12,
    /// The latest series with long support.
    #[value(name = "6.18")]
    V6_18,
    /// The newest.
    #[value(name = "7.2")]
    V7_2,
}

impl Series {
    /// All, oldest first.
    pub(super) const ALL: [Self; 5] = [Self::V5_10, Self::V6_1, Self::V6_12, Self::V6_18, Self::V7_2];

    /// As people and Debian's packages write it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V5_10 => "5.10",
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V6_18 => "6.18",
            Self::V7_2 => "7.2",
        }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_knows_all_by_their_names() {
        let names: Vec<_> = Series::value_variants()
            .iter()
            .map(|series| series.to_possible_value().unwrap().get_name().to_owned())
            .collect();
        assert_eq!(names, Series::ALL.map(Series::name));
    }
}
