//! See `wal_tests::fuzzing`. Memory is counted here, for only a program can replace its allocator.

#![no_main]

use cap::Cap;
use libfuzzer_sys::fuzz_target;
use std::alloc::System;
use wal_tests::fuzzing::{decode, memory_max};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

fuzz_target!(|data: &[u8]| {
    // What is refused beyond it comes back as an error that `decode` does not expect.
    let limit = memory_max(data);
    let _ = ALLOCATOR.set_limit(ALLOCATOR.allocated() + limit);
    decode(data);
    let _ = ALLOCATOR.set_limit(usize::MAX);
});
