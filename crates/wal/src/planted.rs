//! Planted bugs: mistakes that were made in other logs, to see whether the tests would find them here.
//!
//! `planted!("name")` is `false` and gone in every ordinary build. With `--cfg wal_mutants` it is true
//! for the one bug that the environment variable `WAL_MUTANT` names.

#[cfg(all(wal_mutants, not(debug_assertions)))]
compile_error!("planted bugs are for the tests of the tests: no optimised build may have them");

macro_rules! planted {
    ($name:literal) => {
        $crate::planted::is_on($name)
    };
}

#[cfg(not(wal_mutants))]
#[inline(always)]
pub(crate) const fn is_on(_name: &str) -> bool {
    false
}

#[cfg(wal_mutants)]
pub(crate) fn is_on(name: &str) -> bool {
    use std::{env, sync::LazyLock};
    static ON: LazyLock<Option<String>> = LazyLock::new(|| env::var("WAL_MUTANT").ok());
    ON.as_deref() == Some(name)
}
