//! Files of this machine that a guest gets at their own places: programs, with the libraries they need.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::archive;
use crate::machine;

/// The files, with the folders above them and the links that lead to them.
#[derive(Default)]
pub(super) struct Files {
    paths: BTreeSet<PathBuf>,
    /// What may need libraries.
    programs: BTreeSet<PathBuf>,
}

impl Files {
    /// Adds a program that a shell would find.
    pub(super) fn add_program(&mut self, name: &str) -> Result<()> {
        let path = machine::find_program(name).with_context(|| format!("there is no {name} in PATH"))?;
        self.add(&path)
    }

    /// Adds a file.
    pub(super) fn add(&mut self, path: &Path) -> Result<()> {
        self.reach(path)?;
        self.programs.insert(path.to_owned());
        Ok(())
    }

    /// Adds a file, or a folder with everything in it, if it is there.
    pub(super) fn add_data(&mut self, data: &Path) -> Result<()> {
        let mut paths = Vec::new();
        if data.is_dir() {
            archive::list(data, &mut paths)?;
        } else if data.exists() {
            paths.push(data.to_owned());
        }
        for path in paths {
            self.reach(&path)?;
            let is_library = path.extension().is_some_and(|extension| extension == "so");
            if is_library {
                self.programs.insert(path);
            }
        }
        Ok(())
    }

    /// Archives the files and the libraries that they need.
    pub(super) fn archive(mut self, archive: &Path) -> Result<()> {
        let output = Command::new("ldd").args(&self.programs).output().context("run ldd")?;
        // It fails for scripts and static programs, which need nothing.
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for library in libraries(&text)? {
            self.reach(&library)?;
        }
        let root = Path::new("/");
        let inside: Vec<_> = self.paths.iter().filter_map(|path| path.strip_prefix(root).ok()).collect();
        archive::of_files(root, &inside, archive)
    }

    /// Adds what stands on the way to `path`: folders, links, and where these lead.
    fn reach(&mut self, path: &Path) -> Result<()> {
        let mut place = PathBuf::from("/");
        for part in path.components() {
            match part {
                Component::Normal(name) => place.push(name),
                Component::ParentDir => {
                    place.pop();
                }
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
            if place == Path::new("/") {
                continue;
            }
            self.paths.insert(place.clone());
            if place.is_symlink() {
                let context = || format!("follow the link {}", place.display());
                let target = place.read_link().with_context(context)?;
                let target = place.parent().unwrap_or(&place).join(target);
                self.reach(&target)?;
                place = place.canonicalize().with_context(context)?;
            }
        }
        Ok(())
    }
}

/// The paths of the libraries that `ldd` names.
fn libraries(text: &str) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with(char::is_whitespace)) {
        if line.contains("not found") {
            bail!("ldd says: {}; a program here would not start", line.trim());
        }
        found.extend(line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_says() {
        let text = "/usr/bin/tc:\n\tlinux-vdso.so.1 (0x0)\n\tlibm.so.6 => /lib/libm.so.6 (0x0)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x0)\n/bin/busybox:\n\tnot a dynamic executable\n";
        let paths: Vec<_> = libraries(text).unwrap().into_iter().collect();
        assert_eq!(paths, [Path::new("/lib/libm.so.6"), Path::new("/lib64/ld-linux-x86-64.so.2")]);
        let error = libraries("\tlibgone.so => not found\n").unwrap_err().to_string();
        assert!(error.contains("libgone.so"), "{error}");
    }

    #[test]
    fn links_are_added_with_what_they_lead_to() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        std::fs::create_dir(folder.join("real")).unwrap();
        std::fs::write(folder.join("real/file"), "").unwrap();
        std::os::unix::fs::symlink("real", folder.join("alias")).unwrap();
        std::os::unix::fs::symlink("../alias/file", folder.join("real/link")).unwrap();
        let mut files = Files::default();
        files.reach(&folder.join("alias/link")).unwrap();
        let inside: Vec<_> = files.paths.iter().filter_map(|path| path.strip_prefix(&folder).ok()).collect();
        assert_eq!(inside[1..], ["alias", "real", "real/file", "real/link"].map(Path::new));
    }
}
