//! The order of calls in a trace: whether something was synced between two acknowledgements.

use std::collections::BTreeMap;

use super::{NO_FLUSH, SYNC_CALLS};

/// What is written, to the standard output, before the first record and after each acknowledgement.
pub(super) const MARK: &[u8] = b".";

/// The same in a trace.
const MARK_CALL: &str = "write(1, \".\", 1";

/// What a call that only writes must have among its flags to sync as well.
const SYNC_FLAGS: [&str; 2] = ["RWF_DSYNC", "RWF_SYNC"];

/// Of how many records the acknowledgement was seen, and for how many of these no call that syncs both
/// began and succeeded after the acknowledgement before. `trace` is of `strace -f`: each line begins with
/// a thread, and a call that others come between has two lines.
pub(super) fn acknowledged(trace: &str) -> (u64, u64) {
    let mut marks: u64 = 0;
    let mut early = 0;
    let mut is_synced = false;
    // By thread: the marks before it began.
    let mut unfinished: BTreeMap<&str, u64> = BTreeMap::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if call.starts_with(MARK_CALL) {
            if marks > 0 && !is_synced {
                early += 1;
            }
            marks += 1;
            is_synced = false;
        } else if call.starts_with("<... ") {
            let began = unfinished.remove(thread);
            is_synced |= began == Some(marks) && has_succeeded(call);
        } else if is_sync(call) {
            if call.contains("<unfinished ...>") {
                unfinished.insert(thread, marks);
            } else {
                is_synced |= has_succeeded(call);
            }
        }
    }
    (marks.saturating_sub(1), early)
}

fn is_sync(call: &str) -> bool {
    let Some((name, arguments)) = call.split_once('(') else { return false };
    let is_known = SYNC_CALLS.split(',').any(|known| known == name) && name != NO_FLUSH;
    is_known && (name != "pwritev2" || SYNC_FLAGS.iter().any(|flag| arguments.contains(flag)))
}

fn has_succeeded(call: &str) -> bool {
    let result = call.rsplit_once("= ").and_then(|(_, result)| result.split(' ').next());
    result.is_some_and(|result| result.parse::<u64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_between_two_marks_is_seen() {
        let trace = "\
7 fsync(3)                          = 0
7 write(1, \".\", 1)                  = 1
7 fdatasync(5)                      = 0
7 write(1, \".\", 1)                  = 1
7 pwritev2(5, [{iov_base=\"\\0\"..., iov_len=4096}], 1, 45056, RWF_DSYNC) = 4096
7 write(1, \".\", 1)                  = 1
";
        assert_eq!(acknowledged(trace), (2, 0));
    }

    #[test]
    fn what_does_not_make_it_durable_is_not_a_sync() {
        let calls = [
            "fdatasync(5)                      = -1 EIO (Input/output error)",
            "pwritev2(5, [{iov_base=\"\\0\"..., iov_len=4096}], 1, 45056, 0) = 4096",
            "sync_file_range(5, 0, 0, SYNC_FILE_RANGE_WRITE) = 0",
            "write(1, \"..\", 2)                 = 2",
            "fdatasync(5 <unfinished ...>",
        ];
        let mark = format!("7 {MARK_CALL}) = 1\n");
        for call in calls {
            assert_eq!(acknowledged(&format!("{mark}9 {call}\n{mark}")), (1, 1), "{call}");
        }
        // Nor is one that was there before the first record.
        assert_eq!(acknowledged(&format!("7 fsync(3) = 0\n{mark}{mark}")), (1, 1));
    }

    /// The thread that appends waits for another one, whose call is on two lines.
    #[test]
    fn a_sync_counts_for_what_was_acknowledged_after_it_began() {
        let mark = format!("7 {MARK_CALL}) = 1\n");
        let began = "9 pwritev2(5, [...], 1, 0, RWF_DSYNC <unfinished ...>\n";
        let ended = "9 <... pwritev2 resumed>)          = 4096\n";
        let within = format!("{mark}{began}{ended}{mark}");
        assert_eq!(acknowledged(&within), (1, 0));
        // It was under way when the record before was acknowledged: what it holds is not known.
        let across = format!("{mark}{began}{mark}{ended}{mark}");
        assert_eq!(acknowledged(&across), (2, 2));
        let failed = ended.replace("4096", "-1 EIO (Input/output error)");
        assert_eq!(acknowledged(&format!("{mark}{began}{failed}{mark}")), (1, 1));
    }
}
