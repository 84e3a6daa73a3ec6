//! Which of Debian's kernel packages make up a series' releases.

use super::series::Series;

/// Kernels without drivers for real hardware: a third of the size, and every network device of the kernel's own.
const FLAVOUR: &str = "cloud-amd64";

/// A release that the mirror has, with the packages that hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Release {
    /// As `uname -r` says it.
    pub(super) name: String,
    pub(super) packages: Vec<String>,
}

/// The pattern, as apt knows it, of the names of all packages of a series.
pub(super) fn pattern(series: Series) -> String {
    let series = series.name().replace('.', "\\.");
    format!("^linux-(image|binary|modules|base)-{series}\\.[^ ]*-{FLAVOUR}$")
}

/// The releases behind these names of packages, the newest first.
///
/// Up to 6.18 `linux-image` holds a kernel and its modules; since 6.19 three packages do, and some of a release may be
/// gone from the mirror before the others.
pub(super) fn releases(packages: &[&str]) -> Vec<Release> {
    let has = |name: &str| packages.contains(&name);
    let mut releases: Vec<_> = packages
        .iter()
        .filter_map(|package| {
            let name = package.strip_prefix("linux-image-")?;
            name.strip_suffix(FLAVOUR)?;
            let parts = ["binary", "modules", "base"].map(|part| format!("linux-{part}-{name}"));
            let packages = match parts.iter().filter(|part| has(part)).count() {
                0 => vec![(*package).to_owned()],
                3 => parts.to_vec(),
                _ => return None,
            };
            Some(Release { name: name.to_owned(), packages })
        })
        .collect();
    releases.sort_by_key(|release| std::cmp::Reverse(numbers(&release.name)));
    releases
}

/// What orders releases: 6.12.117+deb12 is 6, 12, 117, 12.
fn numbers(name: &str) -> Vec<u32> {
    name.trim_end_matches(FLAVOUR)
        .split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(packages: &str) -> Vec<String> {
        releases(&packages.split_whitespace().collect::<Vec<_>>())
            .into_iter()
            .map(|release| release.name)
            .collect()
    }

    #[test]
    fn the_newest_comes_first() {
        assert_eq!(
            names(
                "linux-image-6.12.90+deb13-cloud-amd64 linux-image-6.12.117+deb12-cloud-amd64 \
                 linux-image-6.12.117+deb13-cloud-amd64"
            ),
            ["6.12.117+deb13-cloud-amd64", "6.12.117+deb12-cloud-amd64", "6.12.90+deb13-cloud-amd64"]
        );
        // A backport into an older Debian is not newer than the original.
        assert_eq!(
            names("linux-image-6.1.0-0.deb11.52-cloud-amd64 linux-image-6.1.0-9-cloud-amd64"),
            ["6.1.0-9-cloud-amd64", "6.1.0-0.deb11.52-cloud-amd64"]
        );
    }

    #[test]
    fn a_release_in_three_packages_is_whole_or_not_there() {
        let whole = "linux-base-7.2.9+deb13-cloud-amd64 linux-binary-7.2.9+deb13-cloud-amd64 \
                     linux-image-7.2.9+deb13-cloud-amd64 linux-modules-7.2.9+deb13-cloud-amd64";
        let [release] = &releases(&whole.split_whitespace().collect::<Vec<_>>())[..] else {
            panic!("one release")
        };
        assert_eq!(release.packages.len(), 3);
        assert_eq!(
            names("linux-binary-7.1.3+deb13-cloud-amd64 linux-image-7.1.3+deb13-cloud-amd64"),
            [""; 0]
        );
    }

    #[test]
    fn the_pattern_tells_series_apart() {
        assert_eq!(pattern(Series::V6_1), r"^linux-(image|binary|modules|base)-6\.1\.[^ ]*-cloud-amd64$");
    }
}
