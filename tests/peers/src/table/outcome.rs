//! What was observed, as tables and as JSON.

use super::{
    flip::{Flipped, Outcome},
    record::Recorded,
    sync::FailedSync,
};
use crate::peer;
use serde_json::{Value, json};
use std::fmt::Write;

/// Everything about one peer.
#[derive(Debug)]
pub(super) struct Row {
    name: &'static str,
    version: &'static str,
    mode: &'static str,
    pub(super) recorded: Option<Recorded>,
    pub(super) flipped: Vec<Flipped>,
    pub(super) failed_syncs: Vec<FailedSync>,
}

impl Row {
    pub(super) fn new(peer: &peer::Entry) -> Self {
        let peer::Entry { name, version, mode, .. } = *peer;
        Self { name, version, mode, recorded: None, flipped: Vec::new(), failed_syncs: Vec::new() }
    }

    pub(super) fn json(&self, seed: u64) -> Value {
        json!({
            "peer": self.name,
            "version": self.version,
            "mode": self.mode,
            "seed": seed,
            "record": self.recorded.as_ref().map(Recorded::json),
            "flip": self.flipped.iter().map(Flipped::json).collect::<Vec<_>>(),
            "sync": self.failed_syncs.iter().map(FailedSync::json).collect::<Vec<_>>(),
        })
    }
}

/// The tables, in Markdown.
pub(super) fn text(rows: &[Row], seed: u64, setting: &str) -> String {
    let mut text = format!("Seed {seed}; {setting}\n");
    let peers = rows.iter().map(|row| format!("{} | {} | {}", row.name, row.version, row.mode));
    table(&mut text, "Peers", "peer | version | mode", peers);

    let recorded = |row: &Row| Some(format!("{} | {}", row.name, row.recorded.as_ref()?));
    let headings = format!("peer | {}", Recorded::HEADINGS);
    table(&mut text, "Crash states on ext4", &headings, rows.iter().filter_map(recorded));
    let told = |row: &Row| {
        let told = row.recorded.as_ref().map_or(&[][..], Recorded::told).to_vec();
        let name = row.name;
        told.into_iter().map(move |line| format!("{name}: {line}"))
    };
    list(&mut text, rows.iter().flat_map(told));

    let names: Vec<_> = Outcome::ALL.iter().map(|outcome| outcome.name()).collect();
    let headings =
        format!("peer | written, then | {} | acknowledged and missing", names.join(" | "));
    let flipped = |row: &Row| {
        let cells = |flip: &Flipped| format!("{} | {} | {}", row.name, flip.written, flip.cells());
        row.flipped.iter().map(cells).collect::<Vec<_>>()
    };
    table(&mut text, "One flipped bit", &headings, rows.iter().flat_map(flipped));
    let answers = |row: &Row| {
        let said = |flip: &Flipped| {
            let unharmed =
                flip.unharmed.iter().map(|text| format!("without a flipped bit: {text}"));
            let said = unharmed.chain(flip.answers.iter().take(1).cloned());
            said.map(|line| format!("{}, {}: {line}", row.name, flip.written)).collect::<Vec<_>>()
        };
        row.flipped.iter().flat_map(said).collect::<Vec<_>>()
    };
    list(&mut text, rows.iter().flat_map(answers));

    let headings = format!("peer | {}", FailedSync::HEADINGS);
    let failed = |row: &Row| {
        let cells = |failed: &FailedSync| format!("{} | {}", row.name, failed.cells());
        row.failed_syncs.iter().map(cells).collect::<Vec<_>>()
    };
    table(&mut text, "One failed sync", &headings, rows.iter().flat_map(failed));
    text
}

/// A table, unless nothing is in it.
fn table(text: &mut String, title: &str, headings: &str, rows: impl Iterator<Item = String>) {
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return;
    }
    let rule = vec!["---"; headings.split('|').count()].join("|");
    let _ = write!(text, "\n## {title}\n\n| {headings} |\n|{rule}|\n");
    for row in rows {
        let _ = writeln!(text, "| {row} |");
    }
}

fn list(text: &mut String, lines: impl Iterator<Item = String>) {
    for (number, line) in lines.enumerate() {
        let _ = writeln!(text, "{}* {line}", if number == 0 { "\n" } else { "" });
    }
}
