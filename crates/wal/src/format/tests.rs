//! The specification, held to its word.

use super::*;
use crate::lsn::Lsn;

const SPECIFICATION: &str = include_str!("mod.rs");

fn log() -> LogId {
    LogId(std::array::from_fn(|i| 0x10 + u8::try_from(i).unwrap()))
}

fn identity() -> Identity {
    Identity::new(log(), 1 << 20, 4096, 1_800_000_000).unwrap()
}

/// One frame at `lsn` with these records, the last byte of each batch after each `true`.
fn frame(lsn: u64, payloads: &[(&[u8], RecordKind, bool)]) -> Vec<u8> {
    let seed = WriterSeed::new(log(), 1, 0x0123_4567_89ab_cdef);
    let mut bytes = vec![0; FRAME_HEADER_BYTES];
    for (payload, kind, more) in payloads {
        let at = Lsn::new(lsn + u64::try_from(bytes.len()).unwrap());
        // What was there before is not for the disk.
        let mut room = vec![0xa5; record_bytes(payload.len())];
        room[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + payload.len()].copy_from_slice(payload);
        let position = if *more { Position::Inner } else { Position::Last };
        encode(&mut room, seed, at, *kind, position, payload.len());
        bytes.extend_from_slice(&room);
    }
    let header = FrameHeader {
        lsn: Lsn::new(lsn),
        payload_bytes: u32::try_from(bytes.len() - FRAME_HEADER_BYTES).unwrap(),
        record_count: u32::try_from(payloads.len()).unwrap(),
        first_ordinal: 0,
        epoch: 1,
        incarnation: 0x0123_4567_89ab_cdef,
        durable_mark: Lsn::ZERO,
        previous_crc: 0,
        purpose: Purpose::Records,
    };
    header.encode(log(), &mut bytes);
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    bytes
}

/// The bytes of the worked example, read from the page itself.
fn example() -> Vec<u8> {
    let text = SPECIFICATION.split("# Worked example").nth(1).unwrap();
    let table = text.split("```text").nth(1).unwrap().split("```").next().unwrap();
    let mut bytes = Vec::new();
    for line in table.lines().filter(|line| !line.trim().is_empty()) {
        let (offset, rest) = line.split_at(4);
        assert_eq!(offset.parse::<usize>().unwrap(), 4096 + bytes.len());
        let hex = &rest[..rest.find("   ").unwrap()];
        let row = hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap());
        bytes.extend(row);
    }
    bytes.resize(4096, 0);
    bytes
}

fn hex_rows(bytes: &[u8]) -> String {
    let row = |row: &[u8]| row.iter().map(|byte| format!("{byte:02x} ")).collect::<String>() + "\n";
    bytes.chunks(16).take(5).map(row).collect()
}

/// Who reads the specification can check it by hand; and padding is zeros, whatever the room was.
#[test]
fn the_worked_example_is_what_the_encoder_writes() {
    let written = frame(4096, &[(b"hi", RecordKind::Data, false)]);
    assert_eq!(hex_rows(&written), hex_rows(&example()));
    assert_eq!(written, example());
    let bytes = example();
    let frame = Frame::check(log(), Lsn::new(4096), 4096, &bytes).unwrap();
    let records: Vec<_> = frame.records().collect();
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].lsn, records[0].payload), (Lsn::new(4160), &b"hi"[..]));
}

#[test]
fn every_flipped_bit_of_a_frame_is_found() {
    let whole = frame(
        8192,
        &[
            (b"", RecordKind::Data, true),
            (b"12345678", RecordKind::Data, false),
            (&[0; 100], RecordKind::Void, false),
        ],
    );
    assert!(Frame::check(log(), Lsn::new(8192), 4096, &whole).is_ok());
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let answer = Frame::check(log(), Lsn::new(8192), 4096, &damaged);
        assert!(answer.is_err(), "bit {bit} was flipped and nobody saw");
    }
}

#[test]
fn every_flipped_bit_of_the_headers_is_found() {
    let mut file = vec![0; IDENTITY_BYTES];
    identity().encode(&mut file);
    assert_eq!(Identity::decode(&file), Ok(identity()));
    let header = SegmentHeader::new(&identity(), 3, Origin::Recycled).unwrap();
    let mut block = vec![0; 4096];
    header.encode(&identity(), &mut block);
    assert_eq!(SegmentHeader::decode(&identity(), &block), Ok(header));
    for bit in 0..4096 * 8 {
        file[bit / 8] ^= 1 << (bit % 8);
        block[bit / 8] ^= 1 << (bit % 8);
        assert!(Identity::decode(&file).is_err(), "bit {bit} of the identity");
        assert!(SegmentHeader::decode(&identity(), &block).is_err(), "bit {bit} of the header");
        file[bit / 8] ^= 1 << (bit % 8);
        block[bit / 8] ^= 1 << (bit % 8);
    }
}

/// A frame's padding is not zero, and the fault names another place than the one that is bad: whoever
/// looks there with a hex editor finds nothing.
#[test]
fn the_first_bad_byte_of_the_padding_is_named() {
    for length in 0..70 {
        let mut bytes = vec![0; length];
        assert_eq!(first_nonzero(&bytes), None, "{length} bytes");
        for at in (0..length).rev() {
            bytes[at] = 1;
            assert_eq!(first_nonzero(&bytes), Some(at), "{length} bytes");
        }
    }
    let whole = frame(4096, &[(&[7; 21], RecordKind::Data, false), (b"", RecordKind::Data, false)]);
    let end = FRAME_HEADER_BYTES + record_bytes(21) + record_bytes(0);
    for offset in end..whole.len() {
        let mut damaged = whole.clone();
        damaged[offset] = 0x80;
        let answer = Frame::check(log(), Lsn::new(4096), 4096, &damaged);
        assert_eq!(answer.unwrap_err(), Fault::Padding { offset });
    }
}

/// Checksums are no proof against a writer that is wrong: a header that places its segment elsewhere has
/// every record of it read at another Lsn.
#[test]
fn a_segment_header_with_a_base_of_its_own_is_refused() {
    let mut block = vec![0; 4096];
    SegmentHeader::new(&identity(), 3, Origin::Zeroed).unwrap().encode(&identity(), &mut block);
    let fields: [(usize, &[u8], &str); 6] = [
        (14, &[2], "checksum kind"),
        (15, &[3], "origin"),
        (40, &(2_u64 << 20).to_le_bytes(), "sequence or base"),
        (48, &(2_u64 << 20).to_le_bytes(), "segment bytes"),
        (56, &8192_u32.to_le_bytes(), "block bytes"),
        (64, &[1], "zeros"),
    ];
    for (offset, value, field) in fields {
        let mut other = block.clone();
        other[offset..offset + value.len()].copy_from_slice(value);
        let crc = crc32fast::hash(&other[12..]);
        other[8..12].copy_from_slice(&crc.to_le_bytes());
        let answer = SegmentHeader::decode(&identity(), &other);
        assert_eq!(answer, Err(HeaderFault::Field(field)));
    }
}

/// The tag has 28 bits for a payload's length, and its kind right above them. A length that is one more would
/// be taken for a payload of nothing, of another kind.
#[test]
fn no_length_reaches_into_the_kind() {
    assert_eq!(RECORD_PAYLOAD_MAX, 0x0fff_ffff);
    assert_eq!(record_bytes(RECORD_PAYLOAD_MAX), RECORD_HEADER_BYTES + 0x1000_0000);
    assert!(std::panic::catch_unwind(|| record_bytes(RECORD_PAYLOAD_MAX + 1)).is_err());
}

/// A later version gives a meaning to a byte that no field covers today. What this version would overlook it
/// has to refuse, and what it takes is what it would have written itself.
#[test]
fn no_byte_of_a_header_is_overlooked() {
    let mut file = vec![0; IDENTITY_BYTES];
    identity().encode(&mut file);
    let mut block = vec![0; 4096];
    SegmentHeader::new(&identity(), 3, Origin::Recycled).unwrap().encode(&identity(), &mut block);
    let sealed = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        let crc = crc32fast::hash(&bytes[12..]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        bytes
    };
    for at in 12..4096 {
        let other = sealed(&file, at);
        if let Ok(decoded) = Identity::decode(&other) {
            let mut again = vec![0; IDENTITY_BYTES];
            decoded.encode(&mut again);
            assert!(again == other, "byte {at} of the identity");
        }
        let other = sealed(&block, at);
        if let Ok(decoded) = SegmentHeader::decode(&identity(), &other) {
            let mut again = vec![0; 4096];
            decoded.encode(&identity(), &mut again);
            assert!(again == other, "byte {at} of the header");
        }
    }
}

/// Somebody restores a damaged log by hand, from what the error says: a place or a sum that is left out
/// costs a day.
#[test]
fn faults_tell_what_they_know() {
    let lsn = Lsn::new(4711);
    let (expected, found) = (0xab12, 0xcd34);
    let frames: [(Fault, &[&str]); 11] = [
        (Fault::Blank, &["zeros"]),
        (Fault::Short { found: 4712 }, &["4712"]),
        (Fault::Magic, &["no frame header"]),
        (Fault::HeaderCrc { lsn, expected, found }, &["0000ab12", "0000cd34"]),
        (Fault::Place { found: lsn }, &["4711"]),
        (Fault::Purpose { found: 4713, lsn: Lsn::new(0), epoch: 1 }, &["4713"]),
        (Fault::RecordHeader { lsn }, &["4711"]),
        (Fault::RecordCrc { lsn, expected, found }, &["4711", "0000ab12", "0000cd34"]),
        (Fault::RecordCount { expected: 4714, found: 4715 }, &["4714", "4715"]),
        (Fault::BatchOpen, &["batch"]),
        (Fault::Padding { offset: 4716 }, &["4716"]),
    ];
    for (fault, words) in frames {
        let text = fault.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
    let headers: [(HeaderFault, &[&str]); 7] = [
        (HeaderFault::Blank, &["zeros"]),
        (HeaderFault::Short { found: 4712 }, &["4712"]),
        (HeaderFault::Magic, &["magic"]),
        (HeaderFault::Version { found: 4713 }, &["4713"]),
        (HeaderFault::Crc { expected, found }, &["0000ab12", "0000cd34"]),
        (HeaderFault::OtherLog { found: log() }, &["101112131415161718191a1b1c1d1e1f"]),
        (HeaderFault::Field("origin"), &["origin"]),
    ];
    for (fault, words) in headers {
        let text = fault.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
}

#[test]
fn every_truncation_of_a_frame_is_found() {
    let whole = frame(4096, &[(&[9; 5000], RecordKind::Data, false)]);
    for length in 0..whole.len() {
        let answer = Frame::check(log(), Lsn::new(4096), 4096, &whole[..length]);
        assert!(answer.is_err(), "{length} bytes");
    }
}

#[test]
fn a_frame_fits_no_other_place_log_or_writer() {
    let whole = frame(4096, &[(b"here", RecordKind::Data, false)]);
    let elsewhere = Frame::check(log(), Lsn::new(8192), 4096, &whole);
    assert_eq!(elsewhere.unwrap_err(), Fault::Place { found: Lsn::new(4096) });
    let other_log = Frame::check(LogId([0; 16]), Lsn::new(4096), 4096, &whole);
    assert!(matches!(other_log, Err(Fault::HeaderCrc { .. })));
    // The records of a stale frame under the header of another writer or of another place.
    for change in [|h: &mut FrameHeader| h.epoch = 2, |h: &mut FrameHeader| h.incarnation = 5] {
        let (mut header, _) = FrameHeader::decode(log(), &whole).unwrap();
        change(&mut header);
        let mut forged = whole.clone();
        header.encode(log(), &mut forged);
        let answer = Frame::check(log(), Lsn::new(4096), 4096, &forged);
        assert!(matches!(answer, Err(Fault::RecordCrc { .. })), "{answer:?}");
    }
    let (mut header, _) = FrameHeader::decode(log(), &whole).unwrap();
    header.lsn = Lsn::new(8192);
    let mut moved = whole.clone();
    header.encode(log(), &mut moved);
    let answer = Frame::check(log(), Lsn::new(8192), 4096, &moved);
    assert!(matches!(answer, Err(Fault::RecordCrc { .. })), "{answer:?}");
}

#[test]
fn zeros_and_hostile_lengths_are_answered_without_a_panic() {
    assert!(matches!(Frame::check(log(), Lsn::ZERO, 4096, &[0; 4096]), Err(Fault::Blank)));
    let mut whole = frame(4096, &[(b"x", RecordKind::Data, false)]);
    for payload_bytes in [0, 8, 15, 17, 4096, u32::MAX] {
        let (mut header, _) = FrameHeader::decode(log(), &whole).unwrap();
        header.payload_bytes = payload_bytes;
        header.encode(log(), &mut whole);
        assert!(Frame::check(log(), Lsn::new(4096), 4096, &whole).is_err(), "{payload_bytes}");
    }
    let open = frame(4096, &[(b"x", RecordKind::Data, true)]);
    let answer = Frame::check(log(), Lsn::new(4096), 4096, &open);
    assert_eq!(answer.unwrap_err(), Fault::BatchOpen);
}

#[test]
fn the_chain_tells_what_follows() {
    let bytes = example();
    let (first, crc) = FrameHeader::decode(log(), &bytes).unwrap();
    let next = FrameHeader { lsn: Lsn::new(8192), first_ordinal: 1, previous_crc: crc, ..first };
    assert!(next.follows(&first, crc));
    assert!(FrameHeader { epoch: 2, incarnation: 9, ..next }.follows(&first, crc));
    assert!(!next.follows(&first, crc ^ 1), "another frame before it");
    assert!(!FrameHeader { first_ordinal: 2, ..next }.follows(&first, crc), "a record too many");
    assert!(!FrameHeader { epoch: 0, ..next }.follows(&first, crc), "the epoch falls");
    assert!(!FrameHeader { incarnation: 9, ..next }.follows(&first, crc), "another writer's");
}

#[test]
fn checkpoints_carry_up_to_a_kilobyte() {
    let state = [5; CHECKPOINT_BYTES_MAX];
    for length in [0, 1, CHECKPOINT_BYTES_MAX] {
        let checkpoint = Checkpoint { start_mark: Lsn::new(99), state: &state[..length] };
        let mut payload = vec![0; checkpoint.payload_bytes()];
        checkpoint.encode(&mut payload);
        assert_eq!(Checkpoint::decode(&payload), Some(checkpoint));
    }
    assert_eq!(Checkpoint::decode(&[0; 7]), None);
    assert_eq!(Checkpoint::decode(&[0; 8 + CHECKPOINT_BYTES_MAX + 1]), None);
}

#[test]
fn an_identity_out_of_range_is_not_one() {
    for (segment_bytes, block_bytes) in
        [(1 << 20, 0), (1 << 20, 256), (1 << 20, 131_072), (1 << 20, 4097), (4096 * 15, 4096)]
    {
        assert!(Identity::new(log(), segment_bytes, block_bytes, 0).is_none());
    }
    assert!(Identity::new(log(), SEGMENT_BYTES_MAX + 4096, 4096, 0).is_none());
    assert!(Identity::new(log(), (1 << 20) + 1, 4096, 0).is_none());
    assert!(Identity::new(log(), SEGMENT_BYTES_MAX, 512, 0).is_some());
}

/// An own table-free CRC-32, so that the sums in the specification are what it says they are.
#[test]
fn the_checksum_is_crc_32_of_ieee_802_3() {
    fn crc(bytes: &[u8]) -> u32 {
        let mut state = u32::MAX;
        for byte in bytes {
            state ^= u32::from(*byte);
            for _ in 0..8 {
                state = (state >> 1) ^ (0xEDB8_8320 & (state & 1).wrapping_neg());
            }
        }
        !state
    }
    let mut block = vec![0; 4096];
    SegmentHeader::new(&identity(), 1, Origin::Zeroed).unwrap().encode(&identity(), &mut block);
    assert_eq!(block[8..12], crc(&block[12..]).to_le_bytes());
    let whole = example();
    let covered = [&log().0[..], &whole[8..64]].concat();
    assert_eq!(whole[4..8], crc(&covered).to_le_bytes());
}
