//! Golden logs: bytes of every released version of the format, kept for ever. Today's encoder
//! writes exactly them, today's reader reads them.
//!
//! They are made here, by hand, from fixed numbers. `WAL_BLESS=1` writes those that are missing;
//! one that is there is never changed: a new version of the format gets a directory of its own.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use crate::craft::{
    Disk, Drawn, Entry, Image, Pen, Records, SEGMENT_BYTES, append, crc32, load, open, payload,
    read_all, record_seed, slot, small, unpack,
};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};
use wal::{
    Lsn, Verdict, VerifyVerdict,
    format::{IDENTITY_BYTES, Origin, Purpose, RecordKind, WriterSeed, encode_record},
    io::Directory,
};

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/v1")
}

/// A log and the records that a replay of it gives.
struct Golden {
    name: &'static str,
    disk: Disk,
    records: Records,
    start_mark: u64,
    state: &'static [u8],
    epoch: u64,
    tail: u64,
}

/// A log's first two segments, of two lives: every kind of record, a batch, an empty record, one of
/// several blocks, every purpose of a frame.
fn young() -> Golden {
    let mut disk = Disk::new();
    disk.segment(0, 0, Origin::Zeroed);
    disk.segment(1, 1, Origin::Zeroed);
    let mut pen = Pen::new(&disk, 0);
    let long = payload(1, 9000);
    let mut frames = Vec::new();
    let mut put = |disk: &mut Disk, frame: Drawn| {
        disk.put(frame.lsn, &frame.bytes);
        frames.push(frame);
    };
    put(&mut disk, pen.frame(Purpose::Opening, &[]));
    pen.vouch();
    put(&mut disk, pen.frame(Purpose::Records, &[Entry::Data(b"debit alice 10")]));
    put(&mut disk, pen.frame(Purpose::Records, &[Entry::Data(b"credit bob 10"), Entry::Data(b"")]));
    pen.vouch();
    let batch =
        [Entry::Inner(b"all"), Entry::Inner(b""), Entry::Inner(b"or"), Entry::Data(b"none")];
    put(&mut disk, pen.frame(Purpose::Records, &batch));
    pen.vouch();
    put(&mut disk, pen.frame(Purpose::Confirmation, &[]));
    pen.vouch();
    let mixed = [Entry::Void(40), Entry::Data(&long), Entry::Void(0), Entry::Data(b"behind it")];
    put(&mut disk, pen.frame(Purpose::Records, &mixed));
    // A crash, another life, and the next segment before this one is full.
    pen.vouch();
    pen.reopen();
    put(&mut disk, pen.frame(Purpose::Opening, &[]));
    pen.vouch();
    let mark = frames_mark(&frames);
    let mut put = |disk: &mut Disk, frame: Drawn| {
        disk.put(frame.lsn, &frame.bytes);
        frames.push(frame);
    };
    let entries = [Entry::Checkpoint(mark, b"young state"), Entry::Data(b"after a checkpoint")];
    put(&mut disk, pen.frame(Purpose::Records, &entries));
    pen.vouch();
    pen.rotate(1);
    let entries = [Entry::Checkpoint(mark, b"young state"), Entry::Data("späßchen".as_bytes())];
    put(&mut disk, pen.frame(Purpose::Records, &entries));
    pen.vouch();
    put(&mut disk, pen.frame(Purpose::Close, &[]));
    let records = frames.iter().flat_map(|frame| frame.records.clone());
    let records = records.filter(|(lsn, _)| *lsn >= mark).collect();
    let (start_mark, state, epoch) = (mark, b"young state", pen.epoch);
    Golden { name: "young", disk, records, start_mark, state, epoch, tail: pen.lsn }
}

/// The second record of the log: what lies before it is not needed.
fn frames_mark(frames: &[Drawn]) -> u64 {
    frames[2].records[0].0
}

/// Three segments of a log that has released others before: it begins in the middle, in slots that
/// are out of order and were used before, and an older segment's frames stand behind the tail.
fn old() -> Golden {
    let mut disk = Disk::new();
    // Segment 4, which is released by now, leaves its frames to segment 7.
    disk.segment(2, 4, Origin::Zeroed);
    let mut pen = Pen::new(&disk, 4);
    pen.ordinal = 100;
    pen.epoch = 9;
    pen.chain = 0x1234_5678;
    while pen.lsn < 5 * SEGMENT_BYTES {
        let frame = pen.frame(Purpose::Records, &[Entry::Data(b"stale")]);
        disk.put(frame.lsn, &frame.bytes);
        pen.vouch();
    }
    disk.segment(2, 7, Origin::Recycled);
    disk.segment(1, 5, Origin::Recycled);
    disk.segment(0, 6, Origin::Zeroed);
    disk.segment(3, 8, Origin::Zeroed);
    pen.rotate(5);
    let mark = pen.lsn + 64 + 48;
    let first = [Entry::Checkpoint(4 * SEGMENT_BYTES, &[1; 32]), Entry::Data(b"the first needed")];
    let mut frames = vec![pen.frame(Purpose::Records, &first)];
    pen.vouch();
    frames.push(pen.frame(Purpose::Records, &[Entry::Data(&payload(7, 30_000))]));
    pen.rotate(6);
    pen.vouch();
    let restated = Entry::Checkpoint(4 * SEGMENT_BYTES, &[1; 32]);
    frames.push(pen.frame(Purpose::Records, &[restated, Entry::Data(b"six")]));
    pen.vouch();
    frames.push(pen.frame(Purpose::Records, &[Entry::Checkpoint(mark, b"old state")]));
    pen.rotate(7);
    pen.vouch();
    let restated = Entry::Checkpoint(mark, b"old state");
    frames.push(pen.frame(Purpose::Records, &[restated, Entry::Data(b"seven")]));
    // Without it a reader beside a writer could not know that the last one is durable.
    pen.vouch();
    frames.push(pen.frame(Purpose::Confirmation, &[]));
    for frame in &frames {
        disk.put(frame.lsn, &frame.bytes);
    }
    let records = frames.into_iter().flat_map(|frame| frame.records).collect::<Records>();
    assert_eq!(records[0].0, mark);
    let (start_mark, state, epoch) = (mark, b"old state", pen.epoch);
    Golden { name: "old", disk, records, start_mark, state, epoch, tail: pen.lsn }
}

/// One line a record: Lsn, bytes, CRC-32 of the payload, and the payload if it is short text.
fn listing(records: &Records) -> String {
    let mut text = String::new();
    for (lsn, payload) in records {
        let shown = str::from_utf8(payload).ok().filter(|text| text.len() < 40);
        let shown = shown.map(|text| format!(" {text:?}")).unwrap_or_default();
        writeln!(text, "{lsn} {} {:08x}{shown}", payload.len(), crc32(0, payload)).unwrap();
    }
    text
}

/// Without the zeros at the end, which say nothing.
fn stripped(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &bytes[..end]
}

/// The committed files, with their zeros.
fn committed(name: &str) -> Image {
    let mut image = Image::new();
    for entry in fs::read_dir(golden_dir().join(name)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name == "records.txt" {
            continue;
        }
        let length =
            if name == "identity" { u64::try_from(IDENTITY_BYTES).unwrap() } else { SEGMENT_BYTES };
        let mut bytes = fs::read(entry.path()).unwrap();
        bytes.resize(usize::try_from(length).unwrap(), 0);
        image.insert(name, bytes);
    }
    image
}

fn bless(golden: &Golden) {
    let dir = golden_dir().join(golden.name);
    fs::create_dir_all(&dir).unwrap();
    let listing = listing(&golden.records);
    let files = golden.disk.image.iter().map(|(name, bytes)| (name.as_str(), stripped(bytes)));
    for (name, bytes) in files.chain([("records.txt", listing.as_bytes())]) {
        if !dir.join(name).exists() {
            fs::write(dir.join(name), bytes).unwrap();
        }
    }
}

/// A field moves by four bytes in a harmless clean-up, and every test that writes and reads with
/// the same code still passes, while no log that exists can be read. The bytes of the format are
/// these.
#[test]
fn todays_encoder_writes_the_golden_bytes() {
    for golden in [young(), old()] {
        if std::env::var_os("WAL_BLESS").is_some() {
            bless(&golden);
        }
        let committed = committed(golden.name);
        let names = |image: &Image| image.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&golden.disk.image), names(&committed), "{}", golden.name);
        for (name, bytes) in &golden.disk.image {
            let other = &committed[name];
            assert_eq!(bytes.len(), other.len());
            let differs = bytes.iter().zip(other).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{}/{name}: the first byte that differs", golden.name);
        }
        let listed = fs::read_to_string(golden_dir().join(golden.name).join("records.txt"));
        assert_eq!(listed.unwrap(), listing(&golden.records), "{}", golden.name);
    }
}

/// An upgrade of the program over a log of an older version: it opens, gives the records that were
/// written down when it was made, and goes on.
#[test]
fn todays_reader_reads_the_golden_bytes() {
    for golden in [young(), old()] {
        let listed =
            fs::read_to_string(golden_dir().join(golden.name).join("records.txt")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        unpack(&committed(golden.name), &path);

        let mut log = small().open_read_only(&path).unwrap();
        assert_eq!(log.verify().unwrap().verdict, VerifyVerdict::Clean, "{}", golden.name);
        let mut records = Records::new();
        let mut reading = log.records_from(Lsn::ZERO).unwrap();
        while let Some(record) = reading.next().unwrap() {
            records.push((record.lsn().get(), record.payload().to_vec()));
        }
        assert_eq!(listing(&records), listed, "{}", golden.name);

        let replay = small().open(&path).unwrap();
        assert_eq!(replay.start_mark().get(), golden.start_mark);
        assert_eq!(replay.checkpoint().unwrap().state, golden.state);
        let report = replay.report();
        assert_eq!(report.verdict, Verdict::Clean, "{report}");
        assert_eq!((report.epoch, report.tail.get()), (golden.epoch + 1, golden.tail), "{report}");
        assert_eq!(report.clean_close, golden.name == "young", "{report}");
        drop(replay);
        let storage = Directory::new(&path);
        let (found, wal, _) = open(&small(), &storage).unwrap();
        assert_eq!(listing(&found), listed, "{}", golden.name);
        let mut expected = found;
        for number in 0..20 {
            expected.push(append(&wal, &payload(number, 4000)));
        }
        wal.close().unwrap();
        drop(wal);
        assert_eq!(read_all(&small(), &storage).unwrap().0, expected);

        let memory = load(&committed(golden.name));
        assert_eq!(listing(&read_all(&small(), &memory).unwrap().0), listed);
    }
}

/// The records of a batch are encoded by the engine alone; the golden ones are made here from the
/// specification. Where both can encode, they must agree, or the golden batch proves nothing; and
/// the engine's own batch must be what the specification says.
#[test]
fn batch_of_the_engine_is_the_specifications() {
    let storage = wal::io::Memory::new();
    let (_, wal, report) = open(&small(), &storage).unwrap();
    let payloads = [&b"all"[..], b"", b"or", b"none at all"];
    let mut batch = wal.batch();
    for payload in payloads {
        batch.push(payload).unwrap();
    }
    let lsn = batch.append().unwrap().wait().unwrap();
    drop(wal);
    let image = crate::craft::save(&storage);
    let disk = Disk::with_log(report.log_id);
    let mut pen = Pen::new(&disk, 0);
    let file = &image[&slot(0)];
    let frame = usize::try_from(lsn.get() - 64).unwrap();
    let number = |at: usize| u64::from_le_bytes(file[frame + at..][..8].try_into().unwrap());
    (pen.epoch, pen.incarnation, pen.mark) = (number(32), number(40), number(48));
    (pen.lsn, pen.ordinal) = (lsn.get() - 64, number(24));
    pen.chain = u32::from_le_bytes(file[frame + 56..][..4].try_into().unwrap());
    let entries = payloads.map(Entry::Inner);
    let entries = [entries[0], entries[1], entries[2], Entry::Data(payloads[3])];
    let drawn = pen.frame(Purpose::Records, &entries);
    assert_eq!(file[frame..frame + drawn.bytes.len()], drawn.bytes);

    // The last record once more, with nothing of the crate's.
    let seed = WriterSeed::new(disk.identity.log_id, pen.epoch, pen.incarnation);
    let at = 70_000 * 8;
    let mut room = vec![0; 8 + 16];
    room[8..19].copy_from_slice(b"none at all");
    encode_record(&mut room, seed, Lsn::new(at), RecordKind::Data, 11);
    assert_eq!(room[4..8], (11_u32 | 1 << 28).to_le_bytes());
    assert_eq!(room[..4], crc32(record_seed(&pen, at), &room[4..]).to_le_bytes());
}
