//! Logs made by hand, byte by byte, and the few steps that every story here is told in.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use aligned::Buffer;
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    ops::Range,
    path::Path,
    thread,
    time::{Duration, Instant},
};
use wal::{
    ErrorKind, LogId, Lsn, OpenReport, Options,
    format::{
        Checkpoint, FRAME_HEADER_BYTES, FrameHeader, IDENTITY_BYTES, Identity, Origin, Purpose,
        RECORD_HEADER_BYTES, RecordKind, SegmentHeader, WriterSeed, encode_record, record_bytes,
    },
    io::{Access, File, Memory, Storage},
};

/// The smallest segment of 4096-byte blocks.
pub(crate) const SEGMENT_BYTES: u64 = 64 << 10;
/// The block of the logs here.
pub(crate) const BLOCK_BYTES: u64 = 4096;

const AN_HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(20);

/// The names and bytes of all files of a log.
pub(crate) type Image = BTreeMap<String, Vec<u8>>;

/// Records as replay lends them: Lsn and payload.
pub(crate) type Records = Vec<(u64, Vec<u8>)>;

/// Options for a small log in which nothing is written but what a test asks for.
pub(crate) fn small() -> Options {
    Options::new()
        .segment_bytes(SEGMENT_BYTES)
        .frame_bytes(16 << 10)
        .pool_bytes(128 << 10)
        .linger(AN_HOUR)
        .confirm_after(AN_HOUR)
}

/// Opens, reads every record, and does not finish: nothing is written.
pub(crate) fn read_all<S: Storage + Clone>(
    options: &Options,
    storage: &S,
) -> wal::Result<(Records, OpenReport)> {
    let mut replay = replay(options, storage)?;
    let records = drain(&mut replay)?;
    Ok((records, replay.report().clone()))
}

/// Opens for writing, past all records.
pub(crate) fn open<S: Storage + Clone>(
    options: &Options,
    storage: &S,
) -> wal::Result<(Records, wal::Wal<S>, OpenReport)> {
    let mut replay = replay(options, storage)?;
    let records = drain(&mut replay)?;
    let (wal, report) = replay.finish()?;
    Ok((records, wal, report))
}

/// Opens a log that this test may just have dropped: a thread of it that has not noticed yet holds
/// the lock a little longer than the handle.
pub(crate) fn replay<S: Storage + Clone>(
    options: &Options,
    storage: &S,
) -> wal::Result<wal::Replay<S>> {
    let start = Instant::now();
    loop {
        match options.open_in(storage.clone()) {
            Err(error) if error.kind() == ErrorKind::Locked && start.elapsed() < PATIENCE => {
                thread::yield_now();
            }
            answer => return answer,
        }
    }
}

fn drain<S: Storage>(replay: &mut wal::Replay<S>) -> wal::Result<Records> {
    let mut records = Records::new();
    while let Some(record) = replay.next()? {
        records.push((record.lsn().get(), record.payload().to_vec()));
    }
    Ok(records)
}

/// Appends `payload`, waits for it, and gives it back as replay should.
pub(crate) fn append<S: Storage>(wal: &wal::Wal<S>, payload: &[u8]) -> (u64, Vec<u8>) {
    let lsn = wal.append(payload).unwrap().wait().unwrap();
    (lsn.get(), payload.to_vec())
}

/// Says loudly that a check was not made.
pub(crate) fn skipped(why: &str) {
    // Past the test's own capture: a skip must be seen. Where nobody listens there is nobody to tell.
    drop(writeln!(io::stderr(), "SKIPPED: {why}"));
}

/// A record with no more sense than being unlike its neighbours.
pub(crate) fn payload(number: usize, bytes: usize) -> Vec<u8> {
    let mut state = u64::try_from(number).unwrap().wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3] | 1
        })
        .collect()
}

/// Every file of `storage`.
pub(crate) fn save(storage: &impl Storage) -> Image {
    let mut image = Image::new();
    for name in storage.list().unwrap() {
        let file = match storage.open(&name, Access::Read) {
            Ok(file) => file,
            // A thread of a log that was just dropped takes back a slot that it did not finish.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => panic!("{name}: {error}"),
        };
        let bytes = usize::try_from(file.len().unwrap()).unwrap();
        let mut buffer = Buffer::zeroed(storage.alignment(), bytes.max(1)).unwrap();
        let read = file.read_at(buffer.as_mut_slice(), 0).unwrap();
        assert_eq!(read, bytes);
        image.insert(name, buffer.as_mut_slice()[..bytes].to_vec());
    }
    image
}

/// A new storage with these files.
pub(crate) fn load(image: &Image) -> Memory {
    let storage = Memory::new();
    storage.create().unwrap();
    for (name, bytes) in image {
        put_file(&storage, name, bytes);
    }
    storage
}

/// Creates `name` with `bytes`, of any length.
pub(crate) fn put_file(storage: &impl Storage, name: &str, bytes: &[u8]) {
    let file = storage.create_file(name).unwrap();
    let mut buffer = Buffer::zeroed(storage.alignment(), bytes.len().max(1)).unwrap();
    buffer.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
    if !bytes.is_empty() {
        file.write_at(buffer.as_mut_slice(), 0).unwrap();
    }
    file.set_len(u64::try_from(bytes.len()).unwrap()).unwrap();
}

/// Writes these files into the directory `path`, which is made.
pub(crate) fn unpack(image: &Image, path: &Path) {
    fs::create_dir_all(path).unwrap();
    for (name, bytes) in image {
        fs::write(path.join(name), bytes).unwrap();
    }
}

/// Changes the bit `bit` of byte `at` of file `name`.
pub(crate) fn flip(storage: &impl Storage, name: &str, at: u64, bit: u32) {
    edit(storage, name, at, |byte| *byte ^= 1 << bit);
}

/// Changes byte `at` of file `name`.
pub(crate) fn edit(storage: &impl Storage, name: &str, at: u64, change: impl FnOnce(&mut u8)) {
    let sector = 512;
    let file = storage.open(name, Access::ReadWrite).unwrap();
    let mut buffer = Buffer::zeroed(storage.alignment(), 512).unwrap();
    let buffer = buffer.as_mut_slice();
    let start = at / sector * sector;
    file.read_at(buffer, start).unwrap();
    change(&mut buffer[usize::try_from(at - start).unwrap()]);
    file.write_at(buffer, start).unwrap();
}

/// The name of slot `number`.
pub(crate) fn slot(number: u64) -> String {
    format!("slot-{number:06}")
}

/// The slot that says it is segment `sequence`.
pub(crate) fn home_of(image: &Image, sequence: u64) -> String {
    let is_it = |bytes: &[u8]| {
        bytes.len() >= 40 && bytes[..8] == *b"walSegmt" && bytes[32..40] == sequence.to_le_bytes()
    };
    image.iter().find(|(_, bytes)| is_it(bytes)).unwrap().0.clone()
}

/// Waits until the segment after the last one that holds a frame is prepared: before, nothing would
/// tell that the last one is missing.
pub(crate) fn wait_for_successor(storage: &Memory) {
    let start = Instant::now();
    loop {
        let image = save(storage);
        let sequences = image.values().filter(|bytes| bytes.starts_with(b"walSegmt"));
        let is_empty = |bytes: &&Vec<u8>| bytes[4096..].iter().all(|byte| *byte == 0);
        if sequences.filter(is_empty).count() == 1 {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "no segment is prepared");
        thread::yield_now();
    }
}

/// A record to be encoded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry<'a> {
    /// Data that ends its batch.
    Data(&'a [u8]),
    /// Data that more records of its batch follow.
    Inner(&'a [u8]),
    /// Room of so many bytes whose writer gave up.
    Void(usize),
    /// A start mark and state.
    Checkpoint(u64, &'a [u8]),
}

/// A log made by hand. Segment `n` is in the slot that [`Disk::segment`] puts it in.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) identity: Identity,
    pub(crate) image: Image,
    homes: BTreeMap<u64, String>,
}

impl Disk {
    /// A log without a segment, whose id is `10 11 .. 1f`.
    pub(crate) fn new() -> Self {
        Self::with_log(log_id())
    }

    pub(crate) fn with_log(log_id: LogId) -> Self {
        let block = u32::try_from(BLOCK_BYTES).unwrap();
        let identity = Identity::new(log_id, SEGMENT_BYTES, block, 1_800_000_000).unwrap();
        let mut file = vec![0; IDENTITY_BYTES];
        identity.encode(&mut file);
        let image = Image::from([("identity".to_owned(), file)]);
        Self { identity, image, homes: BTreeMap::new() }
    }

    /// Makes slot `number` segment `sequence`; the rest of it is as it was, or zeros.
    pub(crate) fn segment(&mut self, number: u64, sequence: u64, origin: Origin) {
        let header = SegmentHeader::new(&self.identity, sequence, origin).unwrap();
        let bytes = usize::try_from(self.identity.segment_bytes).unwrap();
        let block = usize::try_from(self.identity.block_bytes).unwrap();
        let file = self.image.entry(slot(number)).or_insert_with(|| vec![0; bytes]);
        file[..block].fill(0);
        header.encode(&self.identity, &mut file[..block]);
        self.homes.retain(|_, home| *home != slot(number));
        self.homes.insert(sequence, slot(number));
    }

    /// Writes `bytes` at `lsn`.
    pub(crate) fn put(&mut self, lsn: u64, bytes: &[u8]) {
        let home = &self.homes[&(lsn / self.identity.segment_bytes)];
        let at = usize::try_from(lsn % self.identity.segment_bytes).unwrap();
        let file = self.image.get_mut(home).unwrap();
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The bytes of file `name`.
    pub(crate) fn file(&mut self, name: &str) -> &mut Vec<u8> {
        self.image.get_mut(name).unwrap()
    }

    /// The log as a storage.
    pub(crate) fn load(&self) -> Memory {
        load(&self.image)
    }
}

/// The id of the logs here.
pub(crate) fn log_id() -> LogId {
    LogId(std::array::from_fn(|i| 0x10 + u8::try_from(i).unwrap()))
}

/// Encodes frames one after the other as one writer does.
#[derive(Clone, Debug)]
pub(crate) struct Pen {
    pub(crate) identity: Identity,
    pub(crate) epoch: u64,
    pub(crate) incarnation: u64,
    /// Where the next frame goes.
    pub(crate) lsn: u64,
    /// The CRC of the last one's header.
    pub(crate) chain: u32,
    /// How many records the log has.
    pub(crate) ordinal: u64,
    /// The durable mark that the next frame states.
    pub(crate) mark: u64,
}

/// A frame and where it goes.
#[derive(Clone, Debug)]
pub(crate) struct Drawn {
    pub(crate) lsn: u64,
    pub(crate) end: u64,
    pub(crate) crc: u32,
    pub(crate) header: FrameHeader,
    pub(crate) bytes: Vec<u8>,
    /// Its data records.
    pub(crate) records: Records,
}

impl Pen {
    /// The first writer of a log that begins with segment `sequence`.
    pub(crate) fn new(disk: &Disk, sequence: u64) -> Self {
        let lsn = sequence * disk.identity.segment_bytes + BLOCK_BYTES;
        let (epoch, incarnation) = (1, 0x0123_4567_89ab_cdef);
        let (chain, ordinal) = (0, 0);
        Self { identity: disk.identity, epoch, incarnation, lsn, chain, ordinal, mark: 0 }
    }

    /// The writer of the next open.
    pub(crate) fn reopen(&mut self) {
        self.epoch += 1;
        self.incarnation = self.incarnation.rotate_left(7) ^ self.epoch;
    }

    /// Goes on in segment `sequence`.
    pub(crate) fn rotate(&mut self, sequence: u64) {
        self.lsn = sequence * self.identity.segment_bytes + BLOCK_BYTES;
    }

    /// The next frame. The mark that the one after it states is `vouch`ed for by [`Pen::vouch`].
    pub(crate) fn frame(&mut self, purpose: Purpose, entries: &[Entry<'_>]) -> Drawn {
        let log = self.identity.log_id;
        let seed = WriterSeed::new(log, self.epoch, self.incarnation);
        let mut bytes = vec![0; FRAME_HEADER_BYTES];
        let mut records = Records::new();
        for entry in entries {
            let at = self.lsn + u64::try_from(bytes.len()).unwrap();
            let (kind, payload) = entry.payload();
            let mut room = vec![0; record_bytes(payload.len())];
            room[RECORD_HEADER_BYTES..][..payload.len()].copy_from_slice(&payload);
            if matches!(entry, Entry::Inner(_)) {
                encode_inner(&mut room, self, at, payload.len());
            } else {
                encode_record(&mut room, seed, Lsn::new(at), kind, payload.len());
            }
            bytes.extend_from_slice(&room);
            if kind == RecordKind::Data {
                records.push((at, payload));
            }
        }
        let count = u32::try_from(entries.len()).unwrap();
        let header = FrameHeader {
            lsn: Lsn::new(self.lsn),
            payload_bytes: u32::try_from(bytes.len() - FRAME_HEADER_BYTES).unwrap(),
            record_count: count,
            first_ordinal: self.ordinal,
            epoch: self.epoch,
            incarnation: self.incarnation,
            durable_mark: Lsn::new(self.mark),
            previous_crc: self.chain,
            purpose,
        };
        let crc = header.encode(log, &mut bytes);
        bytes.resize(bytes.len().next_multiple_of(usize::try_from(BLOCK_BYTES).unwrap()), 0);
        let lsn = self.lsn;
        self.lsn += u64::try_from(bytes.len()).unwrap();
        self.chain = crc;
        self.ordinal += u64::from(count);
        Drawn { lsn, end: self.lsn, crc, header, bytes, records }
    }

    /// Says that all so far is durable, from the next frame on.
    pub(crate) fn vouch(&mut self) {
        self.mark = self.lsn;
    }
}

impl Entry<'_> {
    fn payload(&self) -> (RecordKind, Vec<u8>) {
        match *self {
            Self::Data(payload) | Self::Inner(payload) => (RecordKind::Data, payload.to_vec()),
            Self::Void(bytes) => (RecordKind::Void, vec![0; bytes]),
            Self::Checkpoint(start_mark, state) => {
                let checkpoint = Checkpoint { start_mark: Lsn::new(start_mark), state };
                let mut payload = vec![0; checkpoint.payload_bytes()];
                checkpoint.encode(&mut payload);
                (RecordKind::Checkpoint, payload)
            }
        }
    }
}

/// A data record that more of its batch follow. Written from the specification, with a checksum of
/// its own, since only the engine encodes batches.
fn encode_inner(room: &mut [u8], pen: &Pen, lsn: u64, payload_bytes: usize) {
    let tag = u32::try_from(payload_bytes).unwrap() | 1 << 28 | 1 << 30;
    room[4..8].copy_from_slice(&tag.to_le_bytes());
    let crc = crc32(record_seed(pen, lsn), &room[4..]);
    room[..4].copy_from_slice(&crc.to_le_bytes());
}

/// The seed of the record at `lsn`, as the specification has it.
pub(crate) fn record_seed(pen: &Pen, lsn: u64) -> u32 {
    let writer = [
        &pen.identity.log_id.0[..],
        &pen.epoch.to_le_bytes()[..],
        &pen.incarnation.to_le_bytes()[..],
    ]
    .concat();
    let w = u64::from(crc32(0, &writer));
    let z = ((w << 32) | w) ^ lsn;
    u32::try_from(z.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32).unwrap()
}

/// CRC-32 of IEEE 802.3, continued from `crc`, bit by bit.
pub(crate) fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    let mut state = !crc;
    for byte in bytes {
        state ^= u32::from(*byte);
        for _ in 0..8 {
            state = (state >> 1) ^ (0xEDB8_8320 & (state & 1).wrapping_neg());
        }
    }
    !state
}

/// A first segment with an opening frame and `frames` frames of one record of `bytes` bytes, each
/// vouching for the one before, and a second segment prepared: what a writer leaves that dies.
pub(crate) fn crashed(frames: Range<usize>, bytes: usize) -> (Disk, Pen, Vec<Drawn>) {
    let mut disk = Disk::new();
    disk.segment(0, 0, Origin::Zeroed);
    disk.segment(1, 1, Origin::Zeroed);
    let mut pen = Pen::new(&disk, 0);
    let opening = pen.frame(Purpose::Opening, &[]);
    disk.put(opening.lsn, &opening.bytes);
    let mut drawn = Vec::new();
    for number in frames {
        pen.vouch();
        let frame = pen.frame(Purpose::Records, &[Entry::Data(&payload(number, bytes))]);
        disk.put(frame.lsn, &frame.bytes);
        drawn.push(frame);
    }
    (disk, pen, drawn)
}

/// All records of these frames.
pub(crate) fn records_of(frames: &[Drawn]) -> Records {
    frames.iter().flat_map(|frame| frame.records.clone()).collect()
}

/// The same bytes as a machine that lost power sees them: nothing of the old process is left.
pub(crate) fn after_crash(storage: &impl Storage) -> Memory {
    load(&save(storage))
}

/// All records of a log that must open.
pub(crate) fn records(storage: Memory) -> Records {
    read_all(&small(), &storage).unwrap().0
}

/// The kind of an outcome's error.
pub(crate) fn kind<T>(outcome: &wal::Result<T>) -> Option<ErrorKind> {
    outcome.as_ref().err().map(wal::Error::kind)
}
