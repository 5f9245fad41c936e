//! Logs made by hand, byte by byte: for the tests of everything that reads.

use super::{Missing, Policy, Recovered};
use crate::{
    Lsn, Result,
    format::{
        Checkpoint, FRAME_HEADER_BYTES, FrameHeader, IDENTITY_BYTES, Identity, LogId, Origin,
        Position, Purpose, RECORD_HEADER_BYTES, RecordKind, SegmentHeader, WriterSeed, encode,
        record_bytes,
    },
    io::{Access, File, Memory, Storage},
    slots::slot_name,
};
use aligned::Buffer;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

pub(crate) const BLOCK: u64 = 512;
pub(crate) const SEGMENT: u64 = 32 * BLOCK;
const BLOCK_BYTES: u32 = 512;

pub(crate) fn identity() -> Identity {
    Identity::new(LogId([7; 16]), SEGMENT, BLOCK_BYTES, 0).unwrap()
}

pub(crate) fn policy() -> Policy {
    Policy {
        create: Missing::Create,
        segment_bytes: SEGMENT,
        block_bytes: BLOCK_BYTES,
        block_may_grow: false,
        created_at: 0,
        unreadable_is_torn: false,
        expect_at_least: None,
        lock_timeout: Duration::ZERO,
    }
}

/// The bytes of a log, and the state of the writer that makes it.
#[derive(Clone)]
pub(crate) struct Handmade {
    /// By slot.
    pub(crate) files: BTreeMap<u32, Vec<u8>>,
    pub(crate) identity: Vec<u8>,
    slot_of: BTreeMap<u64, u32>,
    pub(crate) lsn: u64,
    pub(crate) crc: u32,
    pub(crate) ordinal: u64,
    pub(crate) epoch: u64,
    pub(crate) incarnation: u64,
    pub(crate) mark: u64,
    pub(crate) purpose: Purpose,
    /// Data records, by place: what a reader should find.
    pub(crate) records: BTreeMap<u64, Vec<u8>>,
}

impl Handmade {
    /// Segment 0 in slot 0, zeroed, without a frame; slot 1 zeros.
    pub(crate) fn new() -> Self {
        let mut bytes = vec![0; IDENTITY_BYTES];
        identity().encode(&mut bytes);
        let mut log = Self {
            files: BTreeMap::new(),
            identity: bytes,
            slot_of: BTreeMap::new(),
            lsn: BLOCK,
            crc: 0,
            ordinal: 0,
            epoch: 1,
            incarnation: 100,
            mark: 0,
            purpose: Purpose::Records,
            records: BTreeMap::new(),
        };
        log.segment(0, 0, Origin::Zeroed);
        log.files.insert(1, vec![0; usize::try_from(SEGMENT).unwrap()]);
        log
    }

    /// Makes `slot` segment `sequence`; what is in it stays, but for the header.
    pub(crate) fn segment(&mut self, sequence: u64, slot: u32, origin: Origin) {
        let file =
            self.files.entry(slot).or_insert_with(|| vec![0; usize::try_from(SEGMENT).unwrap()]);
        let header = SegmentHeader::new(&identity(), sequence, origin).unwrap();
        let block = &mut file[..usize::try_from(BLOCK).unwrap()];
        block.fill(0);
        header.encode(&identity(), block);
        self.slot_of.insert(sequence, slot);
    }

    /// Moves the writer on to segment `number` in the zeroed slot `number`, all before it being durable.
    pub(crate) fn rotate(&mut self, number: u32) {
        self.segment(number.into(), number, Origin::Zeroed);
        self.mark = self.lsn;
        self.enter(number.into());
    }

    /// Moves the writer to the first frame of segment `sequence`.
    pub(crate) fn enter(&mut self, sequence: u64) {
        self.lsn = sequence * SEGMENT + BLOCK;
    }

    /// Writes a frame of data records and returns where it stands.
    pub(crate) fn frame(&mut self, payloads: &[&[u8]]) -> u64 {
        let records: Vec<_> = payloads.iter().map(|p| (RecordKind::Data, p.to_vec())).collect();
        self.frame_of(&records)
    }

    pub(crate) fn empty(&mut self, purpose: Purpose) -> u64 {
        self.purpose = purpose;
        self.mark = self.lsn;
        let lsn = self.frame_of(&[]);
        self.purpose = Purpose::Records;
        lsn
    }

    pub(crate) fn checkpoint(&mut self, start_mark: u64, state: &[u8]) -> u64 {
        let checkpoint = Checkpoint { start_mark: Lsn::new(start_mark), state };
        let mut payload = vec![0; checkpoint.payload_bytes()];
        checkpoint.encode(&mut payload);
        self.frame_of(&[(RecordKind::Checkpoint, payload)])
    }

    pub(crate) fn frame_of(&mut self, records: &[(RecordKind, Vec<u8>)]) -> u64 {
        let seed = WriterSeed::new(LogId([7; 16]), self.epoch, self.incarnation);
        let mut bytes = vec![0; FRAME_HEADER_BYTES];
        for (kind, payload) in records {
            let at = self.lsn + u64::try_from(bytes.len()).unwrap();
            let mut room = vec![0; record_bytes(payload.len())];
            room[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + payload.len()].copy_from_slice(payload);
            encode(&mut room, seed, Lsn::new(at), *kind, Position::Last, payload.len());
            bytes.extend_from_slice(&room);
            if *kind == RecordKind::Data {
                self.records.insert(at, payload.clone());
            }
        }
        let header = FrameHeader {
            lsn: Lsn::new(self.lsn),
            payload_bytes: u32::try_from(bytes.len() - FRAME_HEADER_BYTES).unwrap(),
            record_count: u32::try_from(records.len()).unwrap(),
            first_ordinal: self.ordinal,
            epoch: self.epoch,
            incarnation: self.incarnation,
            durable_mark: Lsn::new(self.mark),
            previous_crc: self.crc,
            purpose: self.purpose,
        };
        self.crc = header.encode(LogId([7; 16]), &mut bytes);
        bytes.resize(bytes.len().next_multiple_of(usize::try_from(BLOCK).unwrap()), 0);
        let lsn = self.lsn;
        self.at(lsn, bytes.len()).copy_from_slice(&bytes);
        self.lsn += u64::try_from(bytes.len()).unwrap();
        self.ordinal += u64::try_from(records.len()).unwrap();
        lsn
    }

    /// The `bytes` bytes of the log from `lsn` on.
    pub(crate) fn at(&mut self, lsn: u64, bytes: usize) -> &mut [u8] {
        let slot = self.slot_of[&(lsn / SEGMENT)];
        let offset = usize::try_from(lsn % SEGMENT).unwrap();
        &mut self.files.get_mut(&slot).unwrap()[offset..offset + bytes]
    }

    /// Takes a block away as if it had never been written.
    pub(crate) fn lose(&mut self, lsn: u64) {
        self.at(lsn, usize::try_from(BLOCK).unwrap()).fill(0);
        self.records.retain(|at, _| *at < lsn || *at >= lsn + BLOCK);
    }

    /// The next writer: a new epoch and its opening frame.
    pub(crate) fn reopen(&mut self) -> u64 {
        self.epoch += 1;
        self.incarnation += 17;
        self.empty(Purpose::Opening)
    }

    pub(crate) fn storage(&self) -> Memory {
        let storage = Memory::new();
        storage.create().unwrap();
        put(&storage, "identity", &self.identity);
        for (number, bytes) in &self.files {
            put(&storage, &slot_name(*number), bytes);
        }
        storage
    }

    pub(crate) fn open(&self) -> Result<Recovered<Memory>> {
        super::open(Arc::new(self.storage()), &policy())
    }
}

pub(crate) fn put(storage: &Memory, name: &str, bytes: &[u8]) {
    let file = storage.create_file(name).unwrap();
    let alignment = storage.alignment();
    let mut buffer = Buffer::zeroed(alignment, bytes.len().max(1)).unwrap();
    buffer.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
    file.write_at(buffer.as_mut_slice(), 0).unwrap();
    file.set_len(u64::try_from(bytes.len()).unwrap()).unwrap();
}

pub(crate) fn get(storage: &Memory, name: &str) -> Vec<u8> {
    let file = storage.open(name, Access::Read).unwrap();
    let bytes = usize::try_from(file.len().unwrap()).unwrap();
    let mut buffer = Buffer::zeroed(storage.alignment(), bytes.max(1)).unwrap();
    let read = file.read_at(buffer.as_mut_slice(), 0).unwrap();
    buffer.as_mut_slice()[..read].to_vec()
}
