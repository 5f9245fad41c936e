//! [`WipedPage`]: a word that a forked child finds to be zero.

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::{
    io,
    ptr::{self, NonNull},
    sync::atomic::AtomicU64,
};

/// A word on a page of its own that the kernel replaces with zeros in a forked child.
pub(crate) struct WipedPage {
    // Invariant: the start of a private, readable and writable mapping of PAGE bytes that this
    // value alone unmaps. Its bytes are reached through `word` only.
    start: NonNull<AtomicU64>,
}

/// The kernel rounds it up to its own page, in each of the three calls.
const PAGE: usize = 4096;

// SAFETY: a mapping belongs to the process, not to a thread, and any thread may unmap it.
unsafe impl Send for WipedPage {}
// SAFETY: shared access is to an atomic only.
unsafe impl Sync for WipedPage {}

impl WipedPage {
    /// A page whose word is zero; `Ok(None)` if the kernel does not know how to wipe it.
    pub(crate) fn new() -> io::Result<Option<Self>> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: without MAP_FIXED and with a null hint the kernel chooses free addresses: no
        // existing mapping changes.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), PAGE, prot, MapFlags::PRIVATE) }?;
        let Some(start) = NonNull::new(start.cast()) else {
            return Err(io::ErrorKind::OutOfMemory.into());
        };
        // Invariant: just mapped. From here on every return without it unmaps it.
        let page = Self { start };
        let range = page.start.as_ptr().cast();
        // SAFETY: the range is the page mapped above; nothing refers to its bytes, and in this
        // process they do not change.
        let advised = unsafe { madvise(range, PAGE, Advice::LinuxWipeOnFork) };
        Ok(advised.is_ok().then_some(page))
    }

    #[inline]
    pub(crate) fn word(&self) -> &AtomicU64 {
        // SAFETY: the mapping lives as long as `self` (invariant) and is readable and writable,
        // its start aligned to a page; zeros are a valid atomic. A fork wipes it in the child
        // only, before the child runs.
        unsafe { self.start.as_ref() }
    }
}

impl Drop for WipedPage {
    fn drop(&mut self) {
        // A drop neither panics nor reports: at worst the page stays until the process ends.
        // SAFETY: mapped in `new` with this length, unmapped nowhere else, and no reference
        // outlives `self`. In a forked child it is the child's own copy of the mapping.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), PAGE) };
    }
}

/// What `question` answers in a forked child.
#[cfg(test)]
pub(crate) fn ask_child(question: impl FnOnce() -> bool) -> bool {
    use nix::{
        libc,
        sys::wait::{WaitStatus, waitpid},
        unistd::{ForkResult, fork},
    };

    // SAFETY: the child of a process with threads may call only what is async-signal-safe. It
    // does: the questions of the tests load a word, ask for the pid, read a file, map or unmap; then _exit.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let code = if question() { 10 } else { 20 };
            // SAFETY: no precondition; it runs no destructor and does not return.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
            WaitStatus::Exited(_, 10) => true,
            WaitStatus::Exited(_, 20) => false,
            other => panic!("the child neither said yes nor no: {other:?}"),
        },
    }
}
