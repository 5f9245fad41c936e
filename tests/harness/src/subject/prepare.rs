//! What a subject needs besides the log: its marks, and a directory that writes as it was told to.

use super::Method;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
};
use wal::io::{Access, Directory, DurableMethod, File as _, Storage};

/// Where a directory keeps what its probe measured.
const FIGURES_NAME: &str = "probe";

/// What the probe may write to.
const MEASURED_NAME: &str = "measured";
const MEASURED_BYTES: u64 = 128 << 10;

/// The file that says what the log promised.
pub(super) struct Marks(File);

impl Marks {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(OpenOptions::new().append(true).open(path)?))
    }

    pub(super) fn put(&self, line: &str) -> io::Result<()> {
        let line = format!("{line}\n");
        let written = (&self.0).write(line.as_bytes())?;
        if written == line.len() { Ok(()) } else { Err(io::Error::other("half a mark")) }
    }
}

impl Method {
    pub(crate) fn of_storage(self) -> DurableMethod {
        match self {
            Self::Dsync => DurableMethod::WriteDsync,
            Self::Sync | Self::Cache => DurableMethod::WriteThenSync,
        }
    }
}

/// The directory `path` with the figures taken up that [`choose`] left there. The log itself does so
/// only where its tail leaves room for a probe, which small segments seldom do.
pub(crate) fn directory(path: &Path, method: Method) -> io::Result<Directory> {
    if method == Method::Cache {
        return Ok(Directory::buffered(path));
    }
    let directory = Directory::new(path);
    let file = directory.open(FIGURES_NAME, Access::Read)?;
    directory.probe(&file, 0, 0)?;
    let found = directory.profile().method;
    if found == method.of_storage() {
        Ok(directory)
    } else {
        Err(io::Error::other(format!("the directory writes by {found}")))
    }
}

/// Has the durable write measured, and leaves figures in `path` by which `method` is the faster.
pub(crate) fn choose(path: &Path, method: Method) -> io::Result<()> {
    let directory = Directory::new(path);
    directory.create()?;
    if method == Method::Cache {
        // There is nothing to choose.
        return Ok(());
    }
    // Any file will do.
    match directory.remove(MEASURED_NAME) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = directory.create_file(MEASURED_NAME)?;
    file.set_len(MEASURED_BYTES)?;
    directory.probe(&file, 0, MEASURED_BYTES)?;
    directory.remove(MEASURED_NAME)?;
    let figures = match method {
        Method::Dsync => "write-dsync-ns 1\nwrite-then-sync-ns 2\nmethod RWF_DSYNC\n",
        Method::Sync | Method::Cache => {
            "write-dsync-ns 2\nwrite-then-sync-ns 1\nmethod write + fdatasync\n"
        }
    };
    let path = path.join(FIGURES_NAME);
    let measured = fs::read_to_string(&path)?;
    let Some((key, _)) = measured.split_once("write-dsync-ns ") else {
        return Err(io::Error::other(format!("not the figures of a probe: {measured:?}")));
    };
    fs::write(&path, format!("{key}{figures}"))
}
