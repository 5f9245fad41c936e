//! The two verbs of a subject, over any [`Peer`].

use crate::{
    EXIT_PEER, complain,
    payload::{checksum, payload},
    peer::{Entry, Failure, Files, Peer},
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Append records and say what was promised
    Write(WriteArguments),
    /// Open the log, and print what is in it
    Recover(RecoverArguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct WriteArguments {
    /// The log, which does not exist
    pub(crate) dir: PathBuf,
    /// Where marks go
    pub(crate) marks: PathBuf,
    #[arg(long)]
    pub(crate) records: u64,
    #[arg(long)]
    pub(crate) seed: u64,
    /// How large the log's files are made
    #[arg(long, default_value = "small")]
    pub(crate) files: Files,
    /// How the program ends
    #[arg(long, default_value = "close")]
    pub(crate) end: End,
    /// What is done when an append fails
    #[arg(long, default_value = "stop")]
    pub(crate) on_error: OnError,
    /// Plant a fault, which the recorder must find: acknowledge before appending
    #[arg(long)]
    pub(crate) ack_early: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RecoverArguments {
    /// The log
    dir: PathBuf,
    /// How large its files were made
    #[arg(long, default_value = "small")]
    files: Files,
}

/// How a program ends that has appended all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum End {
    /// In order
    Close,
    /// At once, as if it were killed
    Exit,
}

/// What is done when an append fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OnError {
    /// The program ends, with status 1
    Stop,
    /// It writes the mark `error I`, and appends the next record; and `closing` at the end
    GoOn,
}

impl Command {
    pub(crate) fn dir(&self) -> &Path {
        match self {
            Self::Write(WriteArguments { dir, .. }) => dir,
            Self::Recover(RecoverArguments { dir, .. }) => dir,
        }
    }
}

pub(crate) fn run(peer: &Entry, command: &Command) -> io::Result<ExitCode> {
    match command {
        Command::Write(arguments) => (peer.write)(arguments),
        Command::Recover(arguments) => (peer.recover)(arguments),
    }
}

pub(crate) fn write<P: Peer>(arguments: &WriteArguments) -> io::Result<ExitCode> {
    let WriteArguments { dir, marks, records, seed, files, end, on_error, ack_early } = arguments;
    let marks = OpenOptions::new().append(true).create(true).open(marks)?;
    // Durable before the peer sees it: some make their directory themselves, some want one that exists,
    // and the difference is not what is looked at.
    make_durably(dir)?;
    let mut log = P::open(dir, *files).map_err(Failure::into_io)?;
    for index in 0..*records {
        put(&marks, &format!("begin {index}"))?;
        if *ack_early {
            put(&marks, &format!("ack {index}"))?;
        }
        match log.append(index, &payload(*seed, index)) {
            Ok(()) if *ack_early => {}
            Ok(()) => put(&marks, &format!("ack {index}"))?,
            Err(failure) => {
                complain(format_args!("{}: record {index}: {failure}", P::NAME));
                if *on_error == OnError::Stop {
                    return Ok(ExitCode::from(EXIT_PEER));
                }
                put(&marks, &format!("error {index}"))?;
            }
        }
    }
    if *end == End::Exit {
        put(&marks, "done")?;
        std::process::exit(0);
    }
    if *on_error == OnError::GoOn {
        put(&marks, "closing")?;
    }
    log.close().map_err(Failure::into_io)?;
    put(&marks, "done")?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn recover<P: Peer>(arguments: &RecoverArguments) -> io::Result<ExitCode> {
    let RecoverArguments { dir, files } = arguments;
    fs::create_dir_all(dir)?;
    let mut records = Vec::new();
    let mut read = || {
        let mut log = P::open(dir, *files)?;
        log.read(&mut records).map(|ending| (log, ending))
    };
    let (log, verdict) = match read() {
        Ok((log, ending)) => (Some(log), format!("{ending:?}").to_lowercase()),
        Err(failure) => (None, failure.to_string()),
    };
    let mut out = io::stdout().lock();
    for record in &records {
        // One that is too short for a number has none that any record has.
        let number = record.first_chunk().map_or(u64::MAX, |number| u64::from_le_bytes(*number));
        writeln!(out, "record {number} {:016x}", checksum(record))?;
    }
    writeln!(out, "verdict {verdict}")?;
    out.flush()?;
    drop(out);
    // It ends as a crash would: nothing is put in order that the opening left.
    std::mem::forget(log);
    std::process::exit(0)
}

fn make_durably(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn put(mut marks: &File, line: &str) -> io::Result<()> {
    let line = format!("{line}\n");
    let written = marks.write(line.as_bytes())?;
    if written == line.len() { Ok(()) } else { Err(io::Error::other("half a mark")) }
}
