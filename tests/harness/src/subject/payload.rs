//! What is in a record, and which records are appended together.

use crate::random::{Random, mix};

/// The fewest bytes of a record: its number, and some that tell a seed from another.
const BYTES_MIN: u64 = 12;

/// The most payload of one group: with its headers it fits the smallest segment that is written to.
const GROUP_BYTES_MAX: usize = 40_000;

/// The bytes of record number `index`: its number, then words of splitmix64, little-endian, all
/// from a generator that starts at `mix([seed, index])`. Most are short, some longer than a block,
/// few longer than a frame.
pub(crate) fn payload(seed: u64, index: u64) -> Vec<u8> {
    let mut random = Random::new(mix(&[seed, index]));
    let bytes = BYTES_MIN
        + match random.below(32) {
            0 => random.below(20_000),
            1..=3 => 4000 + random.below(200),
            4..=9 => random.below(3000),
            _ => random.below(200),
        };
    let bytes = usize::try_from(bytes).unwrap_or(0);
    let mut payload = index.to_le_bytes().to_vec();
    while payload.len() < bytes {
        payload.extend(random.next().to_le_bytes());
    }
    payload.truncate(bytes);
    payload
}

/// What is appended as record number `index` after a crash: as long as what it replaces, which may still
/// be on the disk, and other bytes.
pub(crate) fn payload_again(seed: u64, index: u64) -> Vec<u8> {
    let mut payload = payload(seed, index);
    payload.iter_mut().skip(8).for_each(|byte| *byte = !*byte);
    payload
}

/// FNV-1a, 64 bits: ten lines in any language.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3)
    })
}

/// Where the groups of records that are appended as one end: numbers of records, rising to
/// `records` itself. A group of one is a record appended alone.
pub(crate) fn group_ends(seed: u64, records: u64) -> Vec<u64> {
    let mut random = Random::new(mix(&[seed, u64::MAX]));
    let mut ends = Vec::new();
    let mut end = 0;
    while end < records {
        let length = if random.one_in(4) { 2 + random.below(5) } else { 1 };
        let last = (end + length).min(records);
        let mut bytes = 0;
        let fits = |index: &u64| {
            bytes += payload(seed, *index).len();
            bytes <= GROUP_BYTES_MAX
        };
        let count = (end..last).take_while(fits).count();
        end += u64::try_from(count.max(1)).unwrap_or(1);
        ends.push(end);
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_begins_with_its_number_and_depends_on_the_seed() {
        for index in 0..500 {
            let bytes = payload(7, index);
            assert_eq!(bytes[..8], index.to_le_bytes());
            assert_eq!(bytes, payload(7, index));
            assert!(bytes.len() < 20_100);
        }
        assert_ne!(payload(7, 3), payload(8, 3));
        let lengths: Vec<_> = (0..500).map(|index| payload(7, index).len()).collect();
        assert!(lengths.iter().any(|bytes| *bytes > 16 << 10), "none longer than a frame");
        assert!(lengths.iter().any(|bytes| *bytes < 20), "none that is short");
    }

    #[test]
    fn groups_cover_every_record_once() {
        let ends = group_ends(3, 400);
        assert_eq!(ends.last(), Some(&400));
        assert!(ends.windows(2).all(|pair| pair[0] < pair[1] && pair[1] - pair[0] <= 6));
        assert!(ends.windows(2).any(|pair| pair[1] - pair[0] > 1), "no batch");
        assert!(group_ends(3, 0).is_empty());
        let mut longest = 0;
        for seed in 0..200 {
            let mut start = 0;
            for end in group_ends(seed, 200) {
                longest = longest.max((start..end).map(|index| payload(seed, index).len()).sum());
                start = end;
            }
        }
        assert!((30_000..=GROUP_BYTES_MAX).contains(&longest), "{longest}");
    }

    #[test]
    fn the_checksum_is_the_one_that_is_published() {
        assert_eq!(checksum(b""), 0xCBF2_9CE4_8422_2325);
        assert_eq!(checksum(b"a"), 0xAF63_DC4C_8601_EC8C);
    }
}
