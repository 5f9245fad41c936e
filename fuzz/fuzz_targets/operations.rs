//! See `wal_tests::fuzzing`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wal_tests::fuzzing::operations;

fuzz_target!(|data: &[u8]| {
    operations(data);
});
