/*!
What torture writes: records that prove themselves.

A record says which run, child and writer appended it, as which in the writer's order, and which
part of a batch it is. Its length and all its other bytes follow from that, so that whoever reads
it back knows bit for bit what must be there, without having kept anything.

| offset | bytes | field |
|---|---|---|
| 0 | 8 | run |
| 8 | 8 | sequence: how many records the writer appended before it |
| 16 | 4 | child |
| 20 | 4 | writer |
| 24 | 2 | index in its batch |
| 26 | 2 | records of its batch |
| 28 | 4 | bytes of the body |
| 32 | 8 | a mix of all these |
| 40 | | the body: random bytes whose seed is the mix |
*/

use super::random::{Random, mix};

const HEADER_BYTES: usize = 40;
/// The run is under torture with small segments, so this reaches over a good part of one.
const BODY_BYTES_MAX: u64 = 200 << 10;

/// Who appended a record, and as which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) run: u64,
    pub(super) child: u32,
    pub(super) writer: u32,
    pub(super) sequence: u64,
    pub(super) batch_index: u16,
    pub(super) batch_records: u16,
}

impl Stamp {
    /// How long the record is, its body included.
    pub(super) fn record_bytes(&self) -> usize {
        HEADER_BYTES + usize::try_from(self.body_bytes()).unwrap_or(0)
    }

    /// Writes the record.
    ///
    /// # Panics
    /// If `record` is not exactly [`Stamp::record_bytes`] long.
    pub(super) fn write(&self, record: &mut [u8]) {
        assert_eq!(record.len(), self.record_bytes(), "the log lent room of another length");
        let (header, body) = record.split_at_mut(HEADER_BYTES);
        header.copy_from_slice(&self.header());
        let mut random = Random::new(self.mixed());
        for chunk in body.chunks_mut(8) {
            chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
        }
    }

    pub(super) fn to_record(self) -> Vec<u8> {
        let mut record = vec![0; self.record_bytes()];
        self.write(&mut record);
        record
    }

    /// Reads the record back; else says why it is none of `run` or not as it was appended.
    pub(super) fn read(run: u64, record: &[u8]) -> Result<Self, String> {
        let stamp = Self::from_header(record)
            .ok_or_else(|| format!("{} bytes that no writer appended", record.len()))?;
        if stamp.run != run {
            return Err(format!("a record of run {:016x}", stamp.run));
        }
        let expected = stamp.record_bytes();
        if record.len() != expected {
            return Err(format!("{} bytes instead of {expected} of {stamp}", record.len()));
        }
        if record[..HEADER_BYTES] != stamp.header() {
            return Err(format!("a changed header of {stamp}"));
        }
        let mut random = Random::new(stamp.mixed());
        for (index, chunk) in record[HEADER_BYTES..].chunks(8).enumerate() {
            if *chunk != random.next().to_le_bytes()[..chunk.len()] {
                let offset = HEADER_BYTES + index * 8;
                return Err(format!("changed bytes at offset {offset} of {stamp}"));
            }
        }
        Ok(stamp)
    }

    fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&self.run.to_le_bytes());
        header[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        header[16..20].copy_from_slice(&self.child.to_le_bytes());
        header[20..24].copy_from_slice(&self.writer.to_le_bytes());
        header[24..26].copy_from_slice(&self.batch_index.to_le_bytes());
        header[26..28].copy_from_slice(&self.batch_records.to_le_bytes());
        header[28..32].copy_from_slice(&self.body_bytes().to_le_bytes());
        header[32..].copy_from_slice(&self.mixed().to_le_bytes());
        header
    }

    fn from_header(record: &[u8]) -> Option<Self> {
        let (run, rest) = record.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (child, rest) = rest.split_first_chunk()?;
        let (writer, rest) = rest.split_first_chunk()?;
        let (batch_index, rest) = rest.split_first_chunk()?;
        let (batch_records, rest) = rest.split_first_chunk()?;
        (rest.len() >= HEADER_BYTES - 28).then_some(Self {
            run: u64::from_le_bytes(*run),
            sequence: u64::from_le_bytes(*sequence),
            child: u32::from_le_bytes(*child),
            writer: u32::from_le_bytes(*writer),
            batch_index: u16::from_le_bytes(*batch_index),
            batch_records: u16::from_le_bytes(*batch_records),
        })
    }

    fn mixed(&self) -> u64 {
        let Self { run, child, writer, sequence, batch_index, batch_records } = *self;
        mix(&[
            run,
            u64::from(child) << 32 | u64::from(writer),
            sequence,
            u64::from(batch_index) << 16 | u64::from(batch_records),
        ])
    }

    /// Mostly small, as in real logs; now and then more than a frame is likely to have left.
    fn body_bytes(&self) -> u32 {
        let mut random = Random::new(!self.mixed());
        let bytes = match random.below(1000) {
            0..100 => 0,
            100..700 => random.below(256),
            700..950 => random.below(4 << 10),
            950..997 => random.below(16 << 10),
            _ => random.between(64 << 10, BODY_BYTES_MAX),
        };
        // Batches of large records exist too, but a batch must fit in a segment.
        let bytes = if self.batch_records > 1 { bytes.min(24 << 10) } else { bytes };
        u32::try_from(bytes).unwrap_or(0)
    }
}

impl std::fmt::Display for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { child, writer, sequence, .. } = self;
        write!(f, "child {child}, writer {writer}, sequence {sequence}")
    }
}

/// What a checkpoint of `child` to `start_mark` carries.
pub(super) fn checkpoint_state(run: u64, child: u32, start_mark: wal::Lsn) -> Vec<u8> {
    let mut random = Random::new(mix(&[run, u64::from(child), start_mark.get()]));
    let words = random.below(129); // up to the 1024 bytes that a checkpoint may carry
    (0..words).flat_map(|_| random.next().to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(sequence: u64) -> Stamp {
        Stamp { run: 5, child: 2, writer: 3, sequence, batch_index: 0, batch_records: 1 }
    }

    #[test]
    fn record_reads_back_as_what_it_is() {
        for sequence in 0..2000 {
            let stamp = stamp(sequence);
            assert_eq!(Stamp::read(5, &stamp.to_record()), Ok(stamp));
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let record = (0..).map(|n| stamp(n).to_record()).find(|r| r.len() > 60 && r.len() % 8 != 0);
        let record = record.unwrap();
        for bit in 0..record.len() * 8 {
            let mut changed = record.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Stamp::read(5, &changed).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn other_lengths_and_runs_are_seen() {
        let record = (0..).map(|n| stamp(n).to_record()).find(|r| r.len() > 60).unwrap();
        for bytes in 0..record.len() {
            assert!(Stamp::read(5, &record[..bytes]).is_err(), "{bytes} bytes");
        }
        let longer = [record.clone(), vec![0]].concat();
        assert!(Stamp::read(5, &longer).is_err());
        assert!(Stamp::read(6, &record).unwrap_err().contains("of run"));
    }

    #[test]
    fn lengths_vary_from_nothing_to_more_than_64_kib() {
        let lengths: Vec<u32> = (0..3000).map(|n| stamp(n).body_bytes()).collect();
        assert!(lengths.contains(&0));
        assert!(lengths.iter().any(|bytes| *bytes > 64 << 10));
        assert!(lengths.iter().filter(|bytes| **bytes < 256).count() > 1500);
        let states: Vec<usize> =
            (0..200).map(|n| checkpoint_state(1, 1, wal::Lsn::new(n)).len()).collect();
        assert!(states.iter().all(|bytes| *bytes <= 1024) && states.iter().any(|b| *b > 900));
    }
}
