//! Single calls: `append` in its forms with nobody waiting, and what the format costs.

#![forbid(unsafe_code)]

use std::{error::Error, hint::black_box};

use criterion::{BenchmarkId, Criterion, Throughput};
use wal::{
    Lsn, Options, Wal,
    format::{self, LogId, RecordKind, WriterSeed},
};
use wal_bench::{
    disk::fresh_directory,
    log::{RecycledLog, time_appends},
};

const RECORD_BYTES: usize = 128;
const RECORD: [u8; RECORD_BYTES] = [0xA5; RECORD_BYTES];

/// Records between two flushes: two thirds of a default frame, so that nothing is written meanwhile.
const BURST_RECORDS: u64 = 2048;

/// The same over eight frames: the writing of full ones goes on beside the calls.
const LONG_BURST_RECORDS: u64 = 8 * 3072;

const BATCH_RECORDS: u64 = 16;

const LOG_SPAN: u64 = 64 << 20;

type Form = fn(&Wal) -> wal::Result<Lsn>;

fn main() -> Result<(), Box<dyn Error>> {
    let mut criterion = Criterion::default().configure_from_args();
    appends(&mut criterion)?;
    encoding(&mut criterion);
    criterion.final_summary();
    Ok(())
}

fn appends(criterion: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let directory = fresh_directory(None)?;
    let log = RecycledLog::create(&directory.path().join("log"), &Options::new(), LOG_SPAN)?;
    let forms: [(&str, u64, u64, Form); 6] = [
        ("append", 1, BURST_RECORDS, |wal| Ok(wal.append(black_box(&RECORD))?.lsn())),
        ("append_untracked", 1, BURST_RECORDS, |wal| wal.append_untracked(black_box(&RECORD))),
        ("append_with", 1, BURST_RECORDS, |wal| {
            Ok(wal
                .append_with(RECORD_BYTES, |room| room.copy_from_slice(black_box(&RECORD)))?
                .lsn())
        }),
        ("try_append", 1, BURST_RECORDS, |wal| Ok(wal.try_append(black_box(&RECORD))?.lsn())),
        ("batch of 16", BATCH_RECORDS, BURST_RECORDS, |wal| {
            let mut batch = wal.batch();
            for _ in 0..BATCH_RECORDS {
                batch.push(black_box(&RECORD))?;
            }
            Ok(batch.append()?.lsn())
        }),
        ("append, across frames", 1, LONG_BURST_RECORDS, |wal| {
            Ok(wal.append(black_box(&RECORD))?.lsn())
        }),
    ];
    let mut group = criterion.benchmark_group("128 bytes, nobody waiting");
    for (name, records, burst, form) in forms {
        group.throughput(Throughput::Elements(records));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| {
                time_appends(&log, count, burst / records, form).expect("the log failed")
            });
        });
    }
    group.finish();
    drop(log);
    directory.close()?;
    Ok(())
}

fn encoding(criterion: &mut Criterion) {
    let seed = WriterSeed::new(LogId([7; 16]), 1, 42);
    let mut group = criterion.benchmark_group("encode_record");
    for payload_bytes in [128, 1024, 64 << 10] {
        let mut room = vec![0xA5; format::record_bytes(payload_bytes)];
        let throughput = u64::try_from(payload_bytes).expect("a usize fits in 64 bits");
        group.throughput(Throughput::Bytes(throughput));
        group.bench_function(BenchmarkId::from_parameter(payload_bytes), |bencher| {
            bencher.iter(|| {
                let lsn = black_box(Lsn::new(4096));
                let kind = RecordKind::Data;
                format::encode_record(black_box(&mut room), seed, lsn, kind, payload_bytes);
            });
        });
    }
    group.finish();
}
