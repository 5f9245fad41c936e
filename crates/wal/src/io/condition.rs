//! [`Condition`]: a condition variable that sleeps where its host says.

use super::{Host, Wake, Word};
use crate::sync::MutexGuard;

/// For what is not hot: waits for a change of what a mutex protects.
#[derive(Debug, Default)]
pub(crate) struct Condition(Word);

impl Condition {
    /// Gives the mutex up, sleeps until [`Condition::notify_all`], and takes it again. May return
    /// early: callers look again.
    pub(crate) fn wait<T>(&self, host: &dyn Host, guard: &mut MutexGuard<'_, T>) {
        let seen = self.0.read();
        MutexGuard::unlocked(guard, || host.wait(&self.0, seen, None));
    }

    /// Wakes one who waits, for a change that serves one.
    pub(crate) fn notify_one(&self, host: &dyn Host) {
        self.0.bump();
        host.wake(&self.0, Wake::One);
    }

    /// Wakes everyone who waits. What they wait for was changed before, with the mutex held.
    pub(crate) fn notify_all(&self, host: &dyn Host) {
        self.0.bump();
        host.wake(&self.0, Wake::All);
    }
}
