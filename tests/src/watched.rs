//! [`watched`]: a waker that tells when it is cloned, woken and dropped.

use std::{
    sync::Arc,
    task::{RawWaker, RawWakerVTable, Waker},
};

/// What is done to a waker.
#[expect(clippy::exhaustive_enums, reason = "nobody depends on this package")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Cloned: by whoever is polled with it.
    Cloned,
    /// Woken, by value or by reference.
    Woken,
    /// Dropped.
    Dropped,
}

type Hook = Arc<dyn Fn(Moment) + Send + Sync>;

/// A waker that calls `hook` whenever something is done to it or to a clone of it. `Wake` of the standard library
/// does not let one hear of clones.
pub fn watched(hook: impl Fn(Moment) + Send + Sync + 'static) -> Waker {
    let hook: Hook = Arc::new(hook);
    let data = Box::into_raw(Box::new(hook)).cast_const().cast();
    #[expect(unsafe_code, reason = "there is no other way to hear of clones")]
    // SAFETY: the functions of the table keep the contract of `RawWakerVTable`: `data` is a box of a hook, of
    // which each waker has its own, made here or in `clone`, given back in `wake` or `drop_it`. A hook is `Send`
    // and `Sync`.
    unsafe {
        Waker::new(data, &TABLE)
    }
}

static TABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake_by_ref, drop_it);

fn clone(data: *const ()) -> RawWaker {
    let hook = look(data);
    hook(Moment::Cloned);
    RawWaker::new(Box::into_raw(Box::new(hook)).cast_const().cast(), &TABLE)
}

fn wake(data: *const ()) {
    wake_by_ref(data);
    drop_it(data);
}

fn wake_by_ref(data: *const ()) {
    look(data)(Moment::Woken);
}

fn drop_it(data: *const ()) {
    look(data)(Moment::Dropped);
    #[expect(unsafe_code, reason = "the end of the box that `watched` or `clone` made")]
    // SAFETY: only the table has this function. By its contract the waker, whose own this box is, is not used
    // after it.
    let hook = unsafe { Box::from_raw(data.cast_mut().cast::<Hook>()) };
    drop(hook);
}

fn look(data: *const ()) -> Hook {
    #[expect(unsafe_code, reason = "what a raw waker is about")]
    // SAFETY: only the table's functions call this, with the box of a waker that is alive.
    let hook = unsafe { &*data.cast::<Hook>() };
    Arc::clone(hook)
}
