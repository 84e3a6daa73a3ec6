//! What stays in the BPF file system while no agent runs: maps, attachments and programs of one overlay.
//!
//! `/sys/fs/bpf/ovl/<overlay>-<network namespace>/abi-<N>/`: the maps by their names, `link-<index>-<program>`,
//! `prog-<program>`, and the same programs as `object-<identity>-<program>`. An agent that is restarted, or another version
//! with the same ABI, goes on with them, so that no packet takes another path for it. The programs themselves stop acting
//! when nobody moves their deadline on.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use ovl_common::{ABI, Program};
use tracing::{debug, info};

use super::attach::Hook;
use super::load::LoadError;

/// Where the kernel's documentation, systemd and everybody else have the BPF file system.
const BPF_FS: &str = "/sys/fs/bpf";
const ROOT: &str = "/sys/fs/bpf/ovl";

/// The pins of this overlay.
#[derive(Clone, Debug)]
pub struct Pins {
    folder: PathBuf,
}

impl Pins {
    /// The folder of `overlay`, made where there is none.
    ///
    /// # Errors
    /// Pins of another ABI: their maps hold other things than we take them for.
    pub fn open(overlay: &str) -> Result<Self, LoadError> {
        let instance = instance(overlay).map_err(|error| unusable(&error))?;
        if let Some(other) = other_abi(&instance) {
            return Err(LoadError {
                step: "taking over what an earlier agent pinned".to_owned(),
                reason: format!(
                    "{} is of another version of ovl-agent (this one has ABI {ABI})",
                    other.display()
                ),
                advice: "stop that agent and remove its programs and maps with `ovl-agent cleanup --only-pins`, which \
                         costs no connection; or go on with that version",
            });
        }
        let folder = instance.join(format!("abi-{ABI}"));
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))
            .map_err(|error| unusable(&error))?;
        Ok(Self { folder })
    }

    /// Those of all overlays of this network namespace that are of this ABI.
    pub(crate) fn present() -> Result<Vec<Self>> {
        let folders = all()?.into_iter().map(|instance| instance.join(format!("abi-{ABI}")));
        Ok(folders.filter(|folder| folder.is_dir()).map(|folder| Self { folder }).collect())
    }

    /// The overlay, as the file system has its name.
    pub(crate) fn overlay(&self) -> String {
        let instance = self.folder.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        instance.rsplit_once('-').map_or(instance.as_ref(), |(overlay, _)| overlay).to_owned()
    }

    /// Whether they are those of `overlay`, however that is written.
    pub(crate) fn is_of(&self, overlay: &str) -> bool {
        file_name(overlay) == self.overlay()
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a map is.
    pub fn map(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where a program is.
    pub fn program(&self, program: Program) -> PathBuf {
        self.folder.join(format!("prog-{}", program.name()))
    }

    /// Where a program is for those that would load the very same.
    pub(super) fn verified(&self, program: Program, object: u64) -> PathBuf {
        self.folder.join(format!("object-{object:016x}-{}", program.name()))
    }

    /// Removes the pins of a program; what is attached stays.
    pub(super) fn forget_program(&self, program: Program) -> Result<()> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        for name in names.filter(|name| is_of_object(name, program)) {
            Self::remove(&self.folder.join(name))?;
        }
        Self::remove(&self.program(program))
    }

    /// Where an attachment is.
    pub(super) fn link(&self, hook: Hook) -> PathBuf {
        self.folder.join(format!("link-{}-{}", hook.ifindex, hook.program.name()))
    }

    /// The attachments that are there.
    pub(super) fn links(&self) -> Vec<Hook> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| hook_of(&name)).collect()
    }

    /// Removes a pin; one that is not there is as good.
    pub(super) fn remove(path: &Path) -> Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Removes everything that any agent pinned for `overlay` in this network namespace.
    pub fn remove_all(overlay: &str) -> Result<()> {
        let Ok(instance) = instance_path(overlay) else { return Ok(()) };
        if !instance.exists() {
            return Ok(());
        }
        info!("removing the pinned programs and maps in {}", instance.display());
        remove_folder(&instance)
    }
}

/// The folders of all overlays of this network namespace.
pub(crate) fn all() -> Result<Vec<PathBuf>> {
    let suffix = format!("-{}", namespace()?);
    let entries = match fs::read_dir(ROOT) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read {ROOT}"))?,
    };
    let folders = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(folders.filter(|path| path.to_string_lossy().ends_with(&suffix)).collect())
}

/// Removes a folder of [`all`].
pub(crate) fn remove_folder(folder: &Path) -> Result<()> {
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
}

fn hook_of(name: &str) -> Option<Hook> {
    let (ifindex, program) = name.strip_prefix("link-")?.split_once('-')?;
    let program = Program::ALL.into_iter().find(|known| known.name() == program)?;
    Some(Hook { ifindex: ifindex.parse().ok()?, program })
}

/// Whether a name is one of [`Pins::verified`].
fn is_of_object(name: &str, program: Program) -> bool {
    let parts = name.strip_prefix("object-").and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(_, of)| of == program.name())
}

fn other_abi(instance: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(instance).ok()?;
    let own = format!("abi-{ABI}");
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|name| name != own.as_str()))
}

/// The overlay's folder, on a BPF file system that is mounted where it is not yet.
fn instance(overlay: &str) -> Result<PathBuf> {
    let is_mounted = |path: &str| statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC);
    if !is_mounted(BPF_FS) {
        debug!("mounting a BPF file system on {BPF_FS}");
        let mounted = mount(Some("bpf"), BPF_FS, Some("bpf"), MsFlags::empty(), None::<&str>);
        mounted
            .with_context(|| format!("there is no BPF file system on {BPF_FS} and it cannot be mounted"))?;
    }
    instance_path(overlay)
}

fn instance_path(overlay: &str) -> Result<PathBuf> {
    Ok(Path::new(ROOT).join(format!("{}-{}", file_name(overlay), namespace()?)))
}

/// Containers share the host's BPF file system, and two of them may have an overlay of one name.
fn namespace() -> Result<u64> {
    let file = fs::metadata("/proc/thread-self/ns/net").context("cannot tell our own network namespace")?;
    Ok(file.ino())
}

/// The BPF file system takes no dots in names.
fn file_name(overlay: &str) -> String {
    overlay.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

fn unusable(error: &anyhow::Error) -> LoadError {
    LoadError {
        step: "opening the BPF file system".to_owned(),
        reason: format!("{error:#}"),
        advice: "mount it (mount -t bpf bpf /sys/fs/bpf), in containers from the host",
    }
}

impl LoadError {
    /// Whether the fast path works all the same, only not past the agent's end.
    pub(crate) fn is_about_pinning_alone(&self) -> bool {
        self.step.starts_with("opening the BPF file system")
    }
}

/// What a map is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) key: u32,
    pub(super) value: u32,
    pub(super) rows: u32,
}

/// Removes the pin of a map that is not as we make it; aya would take it as it is.
pub(super) fn check_map(path: &Path, shape: Shape) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let Ok(map) = aya::maps::MapInfo::from_pin(path) else { bail!("{} is no BPF map", path.display()) };
    let have = Shape { key: map.key_size(), value: map.value_size(), rows: map.max_entries() };
    if have != shape {
        info!("{} is made anew: it is {have:?}, and should be {shape:?}", path.display());
        Pins::remove(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_known_by_its_name() {
        let pins = Pins { folder: "/x".into() };
        let hook = Hook { ifindex: 7, program: Program::FromWire };
        assert_eq!(pins.link(hook), Path::new("/x/link-7-from_wire"));
        assert_eq!(hook_of("link-7-from_wire"), Some(hook));
        for name in ["OVL_STATE", "prog-from_pod", "link-x-from_pod", "link-7-from_mars", "link-7"] {
            assert_eq!(hook_of(name), None, "{name}");
        }
    }

    #[test]
    fn a_verified_program_is_known_by_its_name() {
        let pins = Pins { folder: "/x".into() };
        let path = pins.verified(Program::FromWire, 0x1f);
        assert_eq!(path, Path::new("/x/object-000000000000001f-from_wire"));
        let name = "object-000000000000001f-from_wire";
        assert!(is_of_object(name, Program::FromWire) && !is_of_object(name, Program::FromWireXdp));
        assert!(!is_of_object("prog-from_wire", Program::FromWire));
    }

    #[test]
    fn an_overlay_is_known_by_its_folder() {
        let pins = Pins { folder: "/sys/fs/bpf/ovl/10_42_0_0_16-4026531840/abi-2".into() };
        assert_eq!(pins.overlay(), "10_42_0_0_16");
        assert!(pins.is_of("10.42.0.0/16") && pins.is_of("10_42_0_0_16") && !pins.is_of("10.43.0.0/16"));
    }

    #[test]
    fn a_network_becomes_a_name_the_file_system_takes() {
        assert_eq!(file_name("10.42.0.0/16 fd42::/48"), "10_42_0_0_16_fd42___48");
    }
}
