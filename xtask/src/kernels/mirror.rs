//! Debian's mirror, the one that apt uses here, with lists of packages of our own: those of this machine stay as they
//! are, and know the kernels of one Debian only.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::unistd::{User, geteuid};

use super::release::{self, Release};
use super::series::Series;
use crate::{machine, setup, shell};

/// Where Debian keeps kernels.
const SUITES: [&str; 6] = ["bullseye", "bookworm", "bookworm-backports", "trixie", "trixie-backports", "sid"];
const SECURITY_SUITES: [&str; 3] = ["bullseye-security", "bookworm-security", "trixie-security"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Fetched again after this long.
const FRESH: Duration = Duration::from_hours(12);

/// The mirror.
pub(super) struct Mirror {
    folder: PathBuf,
    options: Vec<String>,
    /// Whether this run has asked for the lists.
    asked: Cell<bool>,
}

impl Mirror {
    /// Prepares to ask the mirror; lists and downloads go to `folder`.
    pub(super) fn open(folder: PathBuf) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        if !Path::new(KEYRING).exists() {
            setup::install_packages(&["debian-archive-keyring"])?;
        }
        let user = User::from_uid(geteuid()).context("look up this user")?;
        let user = user.with_context(|| format!("user {} has no name", geteuid()))?.name;
        let inside = |part: &str| folder.join(part).display().to_string();
        let options = vec![
            format!("Dir::Etc::SourceList={}", inside("sources.list")),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            format!("Dir::State::Lists={}", inside("lists")),
            format!("Dir::Cache={}", inside("cache")),
            // Another user may not be able to write here.
            format!("APT::Sandbox::User={user}"),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Debug::NoLocking=1".to_owned(),
        ];
        Ok(Self { folder, options, asked: Cell::new(false) })
    }

    /// The releases of a series that the mirror has, the newest first.
    pub(super) fn releases(&self, series: Series) -> Result<Vec<Release>> {
        if !self.is_fresh() {
            self.update()?;
        }
        let mut search = self.apt("apt-cache");
        search.args(["search", "--names-only", &release::pattern(series)]);
        let output = search.output().context("run apt-cache")?;
        if !output.status.success() {
            bail!(
                "apt-cache ended with {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let names: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
        Ok(release::releases(&names))
    }

    /// Downloads a release's packages into an empty folder.
    pub(super) fn download(&self, release: &Release, folder: &Path) -> Result<()> {
        let mut download = self.apt("apt-get");
        download.arg("download").args(&release.packages).current_dir(folder);
        shell::run_quietly(&mut download, &format!("downloading {}", release.name))
    }

    /// Fetches the lists. Debian moves old suites away: those that are left will do.
    fn update(&self) -> Result<()> {
        let sources = self.folder.join("sources.list");
        fs::write(&sources, sources_list()?).with_context(|| format!("write {}", sources.display()))?;
        let updated =
            shell::run_quietly(self.apt("apt-get").arg("update"), "fetching the lists of Debian's kernels");
        ovl_tests::interrupt::check()?;
        self.asked.set(true);
        if let Err(error) = updated {
            println!("    some lists can't be had: {error:#}");
            return Ok(());
        }
        let stamp = self.stamp();
        fs::write(&stamp, "").with_context(|| format!("write {}", stamp.display()))
    }

    fn is_fresh(&self) -> bool {
        let modified = self.stamp().metadata().and_then(|metadata| metadata.modified());
        self.asked.get() || modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age < FRESH))
    }

    /// Makes the next question fetch the lists.
    pub(super) fn forget(&self) {
        // Not there is as good.
        let _gone = fs::remove_file(self.stamp());
    }

    fn stamp(&self) -> PathBuf {
        self.folder.join("updated")
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }
}

/// Sources for every suite, at the addresses that apt has for Debian and for its security updates.
fn sources_list() -> Result<String> {
    let mut targets = ask_for_addresses();
    if targets.is_empty() {
        // A fresh container image has no lists, and so no origins.
        if let Some(mut update) = machine::apt_get() {
            shell::run_quietly(update.arg("update"), "fetching the package lists (apt-get)")?;
        }
        targets = ask_for_addresses();
    }
    let address = |label: &str| {
        let found = targets.iter().find(|(origin, _)| origin == label).map(|(_, address)| address.as_str());
        found.with_context(|| {
            format!(
                "apt has no source labelled {label} here; the kernels come from Debian's mirror: see /etc/apt"
            )
        })
    };
    let main = SUITES.map(|suite| (address("Debian"), suite));
    let security = SECURITY_SUITES.map(|suite| (address("Debian-Security"), suite));
    let line = |(address, suite): (Result<&str>, &str)| {
        Ok(format!("deb [signed-by={KEYRING} arch=amd64] {} {suite} main\n", address?))
    };
    main.into_iter().chain(security).map(line).collect()
}

/// Labels and addresses of apt's sources.
fn ask_for_addresses() -> Vec<(String, String)> {
    let format = ["indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"];
    let text = shell::ask("apt-get", &format).unwrap_or_default();
    addresses(&text)
}

fn addresses(text: &str) -> Vec<(String, String)> {
    let pairs = text.lines().filter_map(|line| line.trim().split_once(' '));
    pairs.map(|(label, address)| (label.to_owned(), address.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_without_a_label_are_passed_over() {
        let text = "Debian http://mirror.example/debian/\n http://other.example/\n";
        assert_eq!(addresses(text), [("Debian".to_owned(), "http://mirror.example/debian/".to_owned())]);
    }
}
