//! [`in_child`]: runs something in a forked child.

use crate::fault::PATIENCE;
use nix::{
    libc,
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, fork},
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::{Duration, Instant},
};

const PANICKED: u8 = 101;

/// Runs `work` in a forked child and answers what it answers. The child's copy of `value` is `work`'s
/// to drop; ours comes back untouched.
///
/// The child has this thread only, and may find any mutex that another thread held locked for ever:
/// `work` must not print, spawn, or open anything.
///
/// # Panics
/// If the child panics or hangs.
pub fn in_child<T>(value: T, work: impl FnOnce(T) -> u8) -> (u8, T) {
    #[expect(unsafe_code, reason = "there is no safe fork")]
    // SAFETY: the child of a program with threads may only do what is safe in a signal handler, by
    // POSIX. glibc promises more: its allocator works in the child, whatever other threads did. The
    // rest is the contract above; the child leaves through `_exit` and never returns from here.
    let forked = unsafe { fork() };
    match forked.expect("a test may fork") {
        ForkResult::Child => {
            let code = catch_unwind(AssertUnwindSafe(|| work(value))).unwrap_or(PANICKED);
            #[expect(unsafe_code, reason = "the one way out that runs no handlers of the parent's")]
            // SAFETY: `_exit` takes any number and does not return.
            unsafe {
                libc::_exit(code.into())
            }
        }
        ForkResult::Parent { child } => {
            // Before whoever watches this test loses his patience: no child is left behind.
            let deadline = Instant::now() + PATIENCE / 2;
            loop {
                match waitpid(child, Some(WaitPidFlag::WNOHANG)).expect("it is our child") {
                    WaitStatus::StillAlive if Instant::now() < deadline => {
                        thread::sleep(Duration::from_millis(1));
                    }
                    WaitStatus::StillAlive => {
                        let _ = kill(child, Signal::SIGKILL);
                        let _ = waitpid(child, None);
                        panic!("the child hangs");
                    }
                    WaitStatus::Exited(_, code) => {
                        let code = u8::try_from(code).expect("a child answers a byte");
                        assert!(code != PANICKED, "the child panicked");
                        return (code, value);
                    }
                    status => panic!("the child ended as {status:?}"),
                }
            }
        }
    }
}
