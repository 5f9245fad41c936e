//! Whether this is still the process that opened something.

use std::{fmt, io, sync::atomic::Ordering};

use rustix::process::{Pid, getpid};

use crate::raw::WipedPage;

/// Tells the process that made it from a forked child, without a system call.
///
/// It keeps one page of memory that the kernel replaces with zeros in a child
/// (`MADV_WIPEONFORK`, Linux 4.14), and looks whether its word is still there: one relaxed load.
/// Where the kernel refuses, it compares process ids instead: one system call each time.
///
/// A thread, and a `vfork`ed child that has not yet called `exec`, share the memory and count as
/// the same process. A witness made in a child witnesses for that child.
///
/// ```
/// let witness = aligned::ForkWitness::new()?;
/// assert!(witness.same_process());
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct ForkWitness(Means);

enum Means {
    /// The page's word is `PRESENT` here, and zero in a child.
    Page(WipedPage),
    /// The process that made the witness. A descendant can get the same id only once that process
    /// is gone and the ids have gone round.
    Pid(Pid),
}

const PRESENT: u64 = u64::from_le_bytes(*b"witness!");

impl ForkWitness {
    /// A witness for the calling process. Maps one page and marks it: two system calls.
    ///
    /// # Errors
    ///
    /// The page cannot be mapped (`ENOMEM`).
    pub fn new() -> io::Result<Self> {
        let Some(page) = WipedPage::new()? else {
            return Ok(Self::by_pid());
        };
        page.word().store(PRESENT, Ordering::Relaxed);
        Ok(Self(Means::Page(page)))
    }

    /// Whether the caller is the process that made the witness, not a forked child of it.
    #[inline]
    #[must_use]
    pub fn same_process(&self) -> bool {
        match &self.0 {
            // Relaxed: a child begins with the wiped page, no other thread ever writes it.
            Means::Page(page) => page.word().load(Ordering::Relaxed) == PRESENT,
            Means::Pid(pid) => *pid == getpid(),
        }
    }

    fn by_pid() -> Self {
        Self(Means::Pid(getpid()))
    }
}

impl fmt::Debug for ForkWitness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForkWitness").field("same_process", &self.same_process()).finish()
    }
}

// Miri knows neither fork nor the kernel's calls.
#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::raw::ask_child;

    #[test]
    fn a_child_is_told_from_its_parent() {
        for witness in [ForkWitness::new().unwrap(), ForkWitness::by_pid()] {
            assert!(witness.same_process());
            assert!(!ask_child(|| witness.same_process()));
            assert!(witness.same_process(), "a fork changes nothing for the parent");
        }
    }

    #[test]
    fn this_kernel_wipes() {
        assert!(matches!(ForkWitness::new().unwrap().0, Means::Page(_)));
    }

    #[test]
    fn a_child_can_have_its_own() {
        let answer = ask_child(|| ForkWitness::new().is_ok_and(|own| own.same_process()));
        assert!(answer);
    }

    #[test]
    fn dropped_in_a_child_the_parents_stays() {
        let mut witness = Some(ForkWitness::new().unwrap());
        assert!(ask_child(|| {
            witness = None;
            witness.is_none()
        }));
        assert!(witness.is_some_and(|witness| witness.same_process()));
    }
}
