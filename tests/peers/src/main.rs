/*!
The `wal-peers` command: other logs in the place of this one, in the same tests.

`wal-peers PEER write|recover` is a subject for `wal-harness record --subject`; the protocol stands in
its `subject` module. `wal-peers table` runs the recorder, a flipped bit and a failed sync on every peer
that was built, and makes a table of what was observed.

Exit status: 0 done; 1 the peer failed; 3 the program itself failed; 64 a wrong command line.
*/
#![forbid(unsafe_code)]

mod peer;
mod subject;
mod table;

// The same records as the harness appends, from the same lines.
#[path = "../../harness/src/subject/payload.rs"]
#[expect(dead_code, reason = "a peer is not written on after a crash")]
mod payload;
#[path = "../../harness/src/random.rs"]
mod random;

use clap::{Parser, Subcommand};
use std::{
    env, fmt,
    io::{self, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode},
};

/// The peer failed.
const EXIT_PEER: u8 = 1;
/// The program could not do its work.
const EXIT_FAILED: u8 = 3;
/// The command line is wrong.
const EXIT_USAGE: u8 = 64;

/// Other logs in the same tests.
#[derive(Debug, Parser)]
#[command(name = "wal-peers", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run every peer through the tests
    Table(table::Arguments),
    /// Name the peers that were built
    List,
    /// `PEER write DIR MARKS --records N --seed S`, or `PEER recover DIR`
    #[command(external_subcommand)]
    Peer(Vec<String>),
}

/// What comes after the name of a peer.
#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct PeerArguments {
    #[command(subcommand)]
    command: subject::Command,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let status = match arguments.command {
        Verb::Table(arguments) => table::run(&arguments),
        Verb::List => list(),
        Verb::Peer(words) => return run_peer(&words),
    };
    status.unwrap_or_else(|error| {
        complain(&error);
        ExitCode::from(EXIT_FAILED)
    })
}

fn run_peer(words: &[String]) -> ExitCode {
    let (name, words) = words.split_first().map_or(("", words), |(name, rest)| (name, rest));
    let Some(peer) = peer::all().into_iter().find(|peer| peer.name == name) else {
        complain(format_args!("no such peer here: {name:?}"));
        return ExitCode::from(EXIT_USAGE);
    };
    let command = match PeerArguments::try_parse_from(words) {
        Ok(PeerArguments { command }) => command,
        Err(error) => return usage(&error),
    };
    let outcome = set_up(&peer, command.dir()).and_then(|()| subject::run(&peer, &command));
    outcome.unwrap_or_else(|error| {
        complain(format_args!("{name}: {error}"));
        ExitCode::from(EXIT_PEER)
    })
}

/// Becomes the same program once more if the peer takes settings from the environment: nothing may set
/// them later.
fn set_up(peer: &peer::Entry, dir: &Path) -> io::Result<()> {
    let missing = |(name, _): &(&str, _)| env::var_os(name).is_none();
    let settings = (peer.environment)(dir);
    if settings.iter().any(missing) {
        let mut command = Command::new(env::current_exe()?);
        return Err(command.args(env::args_os().skip(1)).envs(settings).exec());
    }
    Ok(())
}

fn list() -> io::Result<ExitCode> {
    for peer in peer::all() {
        writeln!(io::stdout(), "{} {}: {}", peer.name, peer.version, peer.mode)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS }
}

/// Says `text` on standard error. A closed standard error is no reason to fail.
fn complain(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "wal-peers: {text}");
}

/// Says loudly what was not checked.
fn skip(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "SKIPPED: {text}");
}
