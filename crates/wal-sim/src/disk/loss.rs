//! What a disk forgets when a flush fails.

use super::{Disk, Effect, State, Verb, fault, history::Kind};
use std::collections::BTreeSet;
use wal::io::DurableMethod;

impl Disk {
    /// Whether a call carries a flush, and the flush fails.
    pub(super) fn loses(&self, verb: Verb, effect: Option<Effect>) -> bool {
        let carries_flush = match verb {
            Verb::Sync | Verb::SyncDir => true,
            // Of two calls, the second one flushes.
            Verb::WriteDurable => self.shared.options.method != DurableMethod::WriteThenSync,
            _ => false,
        };
        carries_flush && effect != Some(Effect::EioButDone) && fault::error(effect).is_some()
    }

    /// The flush that `op` carries fails. What was cached is marked clean, or lost with the cache: of the
    /// file that was to be synced, or of the whole device, where it is in the cache or just on its way
    /// there. A write and the flush that makes it durable are two steps of the device, whatever the call
    /// is: a durable write of another thread may have done the one and not the other, and finds nothing to
    /// flush then.
    ///
    /// Whoever reads on finds what was forgotten gone, unless a page cache keeps it: that of other files
    /// always does. The next flush has nothing to do.
    pub(super) fn forget(&self, op: usize, drops_cache: bool) {
        let mut state = self.shared.state.lock();
        let state = &mut *state;
        let mut cursor = self.cursor(&state.history);
        while cursor.step().is_some() {}
        let own = match state.history.ops[op].kind {
            Kind::Sync { file } => Some(file),
            _ => None,
        };
        let is_wide = drops_cache || state.random.one_in(2);
        let loose = match own {
            _ if is_wide => cursor.unflushed(op),
            Some(file) => cursor.may_be_dropped(file),
            None => Vec::new(),
        };
        let is_all = drops_cache || is_wide && state.random.one_in(2);
        let random = &mut state.random;
        let dropped: Vec<_> = loose.into_iter().filter(|_| is_all || random.one_in(2)).collect();
        cursor.drop_ops(op, &dropped);
        let is_cached = self.shared.options.cached;
        let own_is_kept = is_cached && state.random.one_in(2);
        let mut files: BTreeSet<_> =
            dropped.iter().filter_map(|op| state.history.ops[*op].kind.file()).collect();
        files.extend(own);
        let live: Vec<_> = files
            .into_iter()
            .filter(|file| if Some(*file) == own { !own_is_kept } else { !is_cached })
            .map(|file| (file, cursor.live(file)))
            .collect();
        for (file, content) in live {
            state.files[file] = content;
        }
        let State { history, .. } = state;
        history.drop(op, dropped);
    }
}
