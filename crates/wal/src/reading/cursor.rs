//! [`Cursor`]: from record to record inside the frame that a walker lent last.

use crate::{
    Lsn,
    format::{self, FRAME_HEADER_BYTES, FrameHeader, RecordKind},
};

/// The next record of a frame that was checked, and where it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    /// Where in the frame's payload.
    at: usize,
    lsn: Lsn,
    ordinal: u64,
}

/// A data record that a [`Cursor`] found, without the borrow of its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    at: usize,
    lsn: Lsn,
    ordinal: u64,
}

impl Cursor {
    /// At the first record of the frame with this header.
    pub(crate) fn at_frame(header: &FrameHeader) -> Self {
        let bytes = u64::try_from(FRAME_HEADER_BYTES).unwrap_or(0);
        let lsn = Lsn::new(header.lsn.get().saturating_add(bytes));
        Self { at: 0, lsn, ordinal: header.first_ordinal }
    }

    /// Moves past the next data record at or above `from` and says where it is; `None` at the end of
    /// `payload`, which must be that of the frame.
    #[inline]
    pub(crate) fn next(&mut self, payload: &[u8], from: Lsn) -> Option<Place> {
        loop {
            let rest = payload.get(self.at..)?;
            let (record, bytes) = format::parse_record(rest, self.lsn)?;
            let place = Place { at: self.at, lsn: self.lsn, ordinal: self.ordinal };
            self.at += bytes;
            self.lsn = Lsn::new(self.lsn.get().wrapping_add(u64::try_from(bytes).unwrap_or(0)));
            self.ordinal = self.ordinal.wrapping_add(1);
            let is_data = record.kind == RecordKind::Data || planted!("void-records-shown");
            if is_data && record.lsn >= from {
                return Some(place);
            }
        }
    }
}

impl Place {
    /// The record itself, and its ordinal. Parsed anew, for the borrow checker does not see that a
    /// loop that lends is over; the bytes are in the processor's first cache.
    #[inline]
    pub(crate) fn record<'a>(&self, payload: &'a [u8]) -> Option<(format::Record<'a>, u64)> {
        let rest = payload.get(self.at..)?;
        let (record, _) = format::parse_record(rest, self.lsn)?;
        Some((record, self.ordinal))
    }
}
