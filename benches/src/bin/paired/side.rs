//! One of the two that are compared: where its program is, and what it did in a round.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::Outcome;

/// The program's source; the other commit need not have it.
const SOURCE: &str = include_str!("../workload.rs");

const PROGRAM: &str = "workload";

/// What one round of one side came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figures {
    pub(crate) per_second: f64,
    /// µs; none where nobody waits.
    pub(crate) p99: Option<f64>,
    /// Processor time for each record, µs.
    pub(crate) cpu: f64,
}

/// One of the two.
#[derive(Debug)]
pub(crate) struct Side {
    name: &'static str,
    about: String,
    program: PathBuf,
    directory: PathBuf,
}

impl Side {
    /// `path` is a work tree, which is built, or the program. Its logs are below `directory`.
    pub(crate) fn new(name: &'static str, path: &Path, directory: &Path) -> Outcome<Self> {
        let path = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
        let (program, about) = if path.is_dir() {
            (build(name, &path)?, commit(&path))
        } else {
            (path.clone(), String::new())
        };
        let about = format!("{}{about}", path.display());
        Ok(Self { name, about, program, directory: directory.join(name) })
    }

    /// One round of `load`.
    pub(crate) fn run(&self, load: &str, seconds: f64) -> Outcome<Figures> {
        let mut command = Command::new(&self.program);
        command.arg(&self.directory).arg(load).arg(seconds.to_string());
        let output = command.stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(format!("{}: {load}: {}", self.program.display(), output.status).into());
        }
        let said = String::from_utf8_lossy(&output.stdout);
        figures(&said).ok_or_else(|| format!("{}: {load}: {said}", self.program.display()).into())
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.about)
    }
}

fn figures(said: &str) -> Option<Figures> {
    let figure = |name: &str| -> Option<f64> {
        let words = said.split_whitespace().filter_map(|word| word.split_once('='));
        let mut values = words.filter(|(known, _)| *known == name);
        values.next()?.1.parse().ok()
    };
    Some(Figures {
        per_second: figure("per_second")?,
        p99: figure("p99_us"),
        cpu: figure("cpu_us")?,
    })
}

/// Builds the program with the crate `wal` of `tree`, in a workspace of its own beside this program, by
/// the profile and the lock file of that tree. One for each side: a tree beside itself is built twice,
/// so that an A/A run has no more in common than any other.
fn build(name: &str, tree: &Path) -> Outcome<PathBuf> {
    let own = std::env::current_exe()?;
    let workspace = own.with_file_name(format!("paired-{name}"));
    fs::create_dir_all(workspace.join("src"))?;
    fs::write(workspace.join("Cargo.toml"), manifest(tree))?;
    fs::write(workspace.join("src/main.rs"), SOURCE)?;
    if tree.join("Cargo.lock").exists() {
        fs::copy(tree.join("Cargo.lock"), workspace.join("Cargo.lock"))?;
    }
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--release", "--target-dir"])
        .arg(workspace.join("target"))
        .arg("--manifest-path")
        .arg(workspace.join("Cargo.toml"))
        .status()?;
    if !status.success() {
        return Err(format!("{} does not build with {}", PROGRAM, tree.display()).into());
    }
    Ok(workspace.join("target/release").join(PROGRAM))
}

fn manifest(tree: &Path) -> String {
    let wal = tree.join("crates/wal");
    format!(
        "[workspace]\n\n\
         [package]\nname = \"{PROGRAM}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [dependencies]\n\
         hdrhistogram = {{ version = \"7.6\", default-features = false }}\n\
         rustix = {{ version = \"1.1\", features = [\"time\"] }}\n\
         wal = {{ path = {wal:?} }}\n\n\
         [profile.release]\ndebug = \"line-tables-only\"\nlto = \"thin\"\n"
    )
}

/// Which commit a tree is, as far as git tells.
fn commit(tree: &Path) -> String {
    let mut git = Command::new("git");
    git.arg("-C").arg(tree).args(["describe", "--always", "--dirty"]);
    match git.output() {
        Ok(output) if output.status.success() => {
            format!(", commit {}", String::from_utf8_lossy(&output.stdout).trim())
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_prints_is_read() {
        let read = figures("per_second=12.5 p99_us=3.25 cpu_us=0.5\n").unwrap();
        assert_eq!(read, Figures { per_second: 12.5, p99: Some(3.25), cpu: 0.5 });
        assert_eq!(figures("per_second=12.5 cpu_us=0.5").unwrap().p99, None);
        for wrong in ["", "per_second=12.5", "per_second=x cpu_us=0.5"] {
            assert_eq!(figures(wrong), None, "{wrong}");
        }
    }

    /// A path with a quote in it stays one string of the manifest.
    #[test]
    fn the_manifest_names_the_tree() {
        let text = manifest(Path::new("/a \"b"));
        assert!(text.contains(r#"wal = { path = "/a \"b/crates/wal" }"#), "{text}");
    }
}
