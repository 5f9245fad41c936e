//! Where the log under torture lives.

use crate::output::{EXIT_UNREADABLE, Failure};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The directory of the log, and whether it goes away in the end.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    is_ours: bool,
}

impl Place {
    /// A directory given by name is used as it is, and must be empty or absent; else a fresh one is
    /// made under `target` of the current directory.
    pub(super) fn prepare(
        given: Option<&Path>,
        name: &str,
        allow_memory: bool,
    ) -> Result<Self, Failure> {
        let dir = given.map_or_else(|| Path::new("target").join(name), Path::to_path_buf);
        let refuse = |what: &str| {
            Failure::new(EXIT_UNREADABLE, format!("torture in {}: {what}", dir.display()))
        };
        match fs::read_dir(&dir) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(refuse("it is not empty; name an empty or absent directory"));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(refuse(&error.to_string())),
        }
        let in_memory = is_in_memory(&dir).map_err(|error| refuse(&error.to_string()))?;
        if in_memory && !allow_memory {
            return Err(refuse(
                "its file system is in memory (tmpfs): nothing there is ever durable, so that the \
                 answer would prove nothing; name a directory on a disk with --dir, or insist with \
                 --allow-tmpfs",
            ));
        }
        fs::create_dir_all(&dir).map_err(|error| refuse(&error.to_string()))?;
        // The child's current directory is this one, but the words shown should be good anywhere.
        let dir = dir.canonicalize().map_err(|error| refuse(&error.to_string()))?;
        Ok(Self { dir, is_ours: given.is_none() })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Removes the directory if it was made here. Whether anything is left.
    pub(super) fn remove(self) -> bool {
        let removed = self.is_ours && fs::remove_dir_all(&self.dir).is_ok();
        if removed && let Some(target) = self.dir.parent() {
            // Only if it is empty: made for this, or of no use to anybody.
            let _ = fs::remove_dir(target);
        }
        !removed
    }
}

/// Whether the file system of `dir`, or of where it will be made, loses everything at power-off.
#[cfg(target_os = "linux")]
fn is_in_memory(dir: &Path) -> io::Result<bool> {
    // From linux/magic.h.
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    const RAMFS_MAGIC: u64 = 0x8584_58f6;
    let absolute = std::path::absolute(dir)?;
    let Some(existing) = absolute.ancestors().find(|ancestor| ancestor.exists()) else {
        return Ok(false);
    };
    let magic = u64::try_from(rustix::fs::statfs(existing)?.f_type).unwrap_or(0);
    // A 32-bit field may come sign-extended.
    let magic = magic & 0xffff_ffff;
    Ok(magic == TMPFS_MAGIC || magic == RAMFS_MAGIC)
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature as where it can be told")]
fn is_in_memory(_: &Path) -> io::Result<bool> {
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_with_anything_in_it_is_refused_and_left_alone() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let refused = Place::prepare(Some(here), "unused", true).unwrap_err();
        assert!(refused.text().is_some_and(|text| text.contains("not empty")));
        assert!(here.join("Cargo.toml").exists());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_is_told_from_disk() {
        if Path::new("/dev/shm").exists() {
            assert!(is_in_memory(Path::new("/dev/shm/absent/deeper")).unwrap());
        }
        assert!(!is_in_memory(Path::new("/proc")).unwrap());
    }
}
