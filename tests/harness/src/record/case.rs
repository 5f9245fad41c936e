//! [`Run`]: what to record; [`Case`]: a recording, and all that follows from it.

use super::{
    SubjectKind,
    check::{Checked, last_write},
    event::Recording,
    oracle::Promises,
    stack::FileSystem,
    state::{Plan, plan},
    tear::Tearable,
    window::{Window, windows},
};
use crate::subject::{Broken, Method};
use serde_json::json;
use std::{
    env, fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

/// What to record, and what to try of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) file_system: FileSystem,
    pub(super) method: Method,
    pub(super) seed: u64,
    pub(super) states: usize,
    pub(super) records: u64,
    pub(super) subject: SubjectKind,
    pub(super) broken: Option<Broken>,
    /// For a run that goes on after a crash.
    pub(super) resumed: Option<Crashed>,
}

/// What a crash left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crashed {
    /// The first record of the log.
    pub(super) start: u64,
    /// The record behind its last.
    pub(super) next: u64,
    /// Records before this one had begun: what was cut may still be found whole until the recovery is
    /// done, for it was never more than cut.
    pub(super) begun: u64,
    /// And so may a checkpoint that releases the records before this one.
    pub(super) releasing: u64,
}

impl Run {
    /// How durable writes are made, if it is for the harness to say.
    pub(super) fn method_name(&self) -> String {
        match self.subject {
            SubjectKind::Wal => self.method.to_string(),
            SubjectKind::Program(_) => "its own".to_owned(),
        }
    }

    pub(super) fn header(&self) -> serde_json::Value {
        json!({
            "recording": 1,
            "fs": self.file_system.name(),
            "method": self.method.to_string(),
            "seed": self.seed,
            "states": self.states,
            "records": self.records,
            "subject": self.subject.to_string(),
            "break": self.broken.map(|broken| broken.to_string()),
            "resumed": self.resumed.map(|Crashed { start, next, begun, releasing }| {
                [start, next, begun, releasing]
            }),
        })
    }

    /// The run that a recording is of.
    pub(super) fn of(header: &serde_json::Value) -> Option<Self> {
        use clap::ValueEnum;
        let text = |name: &str| header[name].as_str();
        Some(Self {
            file_system: FileSystem::from_str(text("fs")?, false).ok()?,
            method: Method::from_str(text("method")?, false).ok()?,
            seed: header["seed"].as_u64()?,
            states: usize::try_from(header["states"].as_u64()?).ok()?,
            records: header["records"].as_u64()?,
            subject: SubjectKind::from(text("subject")?),
            broken: text("break").and_then(|broken| Broken::from_str(broken, false).ok()),
            resumed: match header["resumed"].as_array() {
                Some(crashed) => {
                    let number = |place: usize| crashed.get(place)?.as_u64();
                    Some(Crashed {
                        start: number(0)?,
                        next: number(1)?,
                        begun: number(2)?,
                        releasing: number(3)?,
                    })
                }
                None => None,
            },
        })
    }
}

/// A recording, and what is to be tried of it: a function of the recording alone.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) run: Run,
    pub(super) recording: Recording,
    pub(super) windows: Vec<Window>,
    pub(super) plan: Plan,
    pub(super) promises: Promises,
}

impl Case {
    pub(super) fn new(recording: Recording) -> io::Result<Self> {
        let malformed = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let run = Run::of(&recording.header)
            .ok_or_else(|| malformed(format!("not a header: {}", recording.header)))?;
        let windows = windows(&recording.events);
        let tearable = Tearable::find(&recording.events);
        let plan = plan(&windows, &tearable, run.seed, run.states);
        let promises = Promises::read(&recording.events, &run).map_err(malformed)?;
        Ok(Self { run, recording, windows, plan, promises })
    }

    /// What state number `number` left, in which `checked` was found.
    pub(super) fn crashed(&self, number: usize, checked: &Checked) -> Crashed {
        let state = &self.plan.states[number];
        let last_write = last_write(state, &self.windows[state.window]);
        let (begun, releasing) = self.promises.possible(last_write);
        let Range { start, end: next } = checked.records;
        Crashed { start, next, begun, releasing }
    }

    /// Keeps the recording, and returns where.
    pub(super) fn keep(&self, directory: Option<&Path>, name: &str) -> io::Result<PathBuf> {
        let directory = directory.map_or_else(env::temp_dir, Path::to_path_buf);
        fs::create_dir_all(&directory)?;
        let (seed, process) = (self.run.seed, std::process::id());
        let path = directory.join(format!("wal-harness-{name}-{seed}-{process}.recording"));
        self.recording.save(&path)?;
        Ok(path)
    }
}
