//! A disk made slow for one process: the block controller of control groups, version 1 or 2.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process, thread,
    time::Duration,
};

use wal_bench::machine::Machine;

use crate::Stop;

/// A group whose last process is just ending cannot be removed yet: so often is it tried.
const REMOVALS: u32 = 100;

/// A control group whose processes write no faster than they may. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Throttle {
    group: PathBuf,
    /// Where the controller was switched on for it, and has to be switched off.
    switched: Option<PathBuf>,
}

/// The block controller, and where it is mounted.
#[derive(Debug, PartialEq, Eq)]
enum Controller {
    /// The hierarchy of `blkio`.
    V1(PathBuf),
    /// The hierarchy of all controllers. Whether `io` is among them stands in its files.
    V2(PathBuf),
}

impl Throttle {
    /// A group that writes at most `bytes_per_second` to the disk of `directory`.
    pub(crate) fn new(directory: &Path, bytes_per_second: u64) -> Result<Self, Stop> {
        let refused = |what: &str| Stop::Refused(what.to_owned());
        if !rustix::process::geteuid().is_root() {
            return Err(refused("slowing the disk down needs root"));
        }
        // Limits are a disk's: its counters are beside its number, also for a partition.
        let stat = Machine::of(directory)?.queue.stat;
        let stat = stat.ok_or_else(|| refused("the directory is on no block device of its own"))?;
        let disk = fs::read_to_string(stat.with_file_name("dev"))?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let controller = controllers(&mounts).into_iter().find(Controller::is_there);
        let controller =
            controller.ok_or_else(|| refused("no block controller of control groups"))?;
        Self::limited(&controller, disk.trim(), bytes_per_second)
            .map_err(|error| Stop::Refused(format!("no limit by {controller:?}: {error}")))
    }

    fn limited(controller: &Controller, disk: &str, bytes_per_second: u64) -> io::Result<Self> {
        let (Controller::V1(mount) | Controller::V2(mount)) = controller;
        let group = mount.join(format!("wal-ring-{}", process::id()));
        fs::create_dir(&group)?;
        let mut throttle = Self { group, switched: None };
        let (name, limit) = match controller {
            Controller::V1(_) => {
                ("blkio.throttle.write_bps_device", format!("{disk} {bytes_per_second}"))
            }
            Controller::V2(mount) => {
                let switches = mount.join("cgroup.subtree_control");
                if !has_word(&switches, "io") {
                    fs::write(&switches, "+io")?;
                    throttle.switched = Some(switches);
                }
                ("io.max", format!("{disk} wbps={bytes_per_second}"))
            }
        };
        fs::write(throttle.group.join(name), limit)?;
        Ok(throttle)
    }

    /// The group's directory, to [`join`].
    pub(crate) fn group(&self) -> &Path {
        &self.group
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        let is_gone = (0..REMOVALS).any(|_| {
            let removed = fs::remove_dir(&self.group).is_ok();
            if !removed {
                thread::sleep(Duration::from_millis(50));
            }
            removed
        });
        if !is_gone {
            eprintln!("ring: left behind: {}", self.group.display());
        }
        if let Some(switches) = &self.switched
            && let Err(error) = fs::write(switches, "-io")
        {
            eprintln!("ring: io is left in {}: {error}", switches.display());
        }
    }
}

/// Puts this process into `group`.
pub(crate) fn join(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), process::id().to_string())
}

impl Controller {
    fn is_there(&self) -> bool {
        match self {
            Self::V1(_) => true,
            Self::V2(mount) => has_word(&mount.join("cgroup.controllers"), "io"),
        }
    }
}

fn has_word(path: &Path, word: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.split_whitespace().any(|one| one == word))
}

/// What may have the controller, from `mountinfo`. Fields, from `proc(5)`: id, parent, major:minor,
/// root, mount point, options, any number more, `-`, type, source, options of the file system.
fn controllers(mounts: &str) -> Vec<Controller> {
    let controller = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let mount = PathBuf::from(place.split(' ').nth(4)?);
        let mut kind = kind.split(' ');
        let (file_system, options) = (kind.next()?, kind.nth(1)?);
        match file_system {
            "cgroup" if options.split(',').any(|option| option == "blkio") => {
                Some(Controller::V1(mount))
            }
            "cgroup2" => Some(Controller::V2(mount)),
            _ => None,
        }
    };
    mounts.lines().filter_map(controller).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controller_is_where_it_is_mounted() {
        let mounts = "30 1 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      31 30 0:27 / /sys/fs/cgroup/cpu rw shared:1 - cgroup cgroup rw,cpu\n\
                      32 30 0:28 / /sys/fs/cgroup/io rw shared:2 master:3 - cgroup cgroup rw,net,blkio\n\
                      33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
                      34 30 0:30 / /blkio rw - ext4 /dev/blkio rw,blkio\n";
        let v1 = Controller::V1(PathBuf::from("/sys/fs/cgroup/io"));
        let v2 = Controller::V2(PathBuf::from("/sys/fs/cgroup/unified"));
        assert_eq!(controllers(mounts), [v1, v2]);
        assert_eq!(controllers("nonsense\n"), []);
    }

    /// A hierarchy without the controller is mounted as well, where version 1 has it.
    #[test]
    fn version_2_says_what_it_has() {
        let directory = wal_bench::disk::fresh_directory(None).unwrap();
        let controller = Controller::V2(directory.path().to_path_buf());
        assert!(!controller.is_there());
        for (words, is_there) in
            [("cpu memory\n", false), ("iocost cpu", false), ("cpu io\n", true)]
        {
            fs::write(directory.path().join("cgroup.controllers"), words).unwrap();
            assert_eq!(controller.is_there(), is_there, "{words}");
        }
    }
}
