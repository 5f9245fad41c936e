//! A power of two, and the three rules of direct I/O.

use std::{error, fmt, io};

/// An alignment in bytes: a power of two from 1 to [`Alignment::MAX`].
///
/// ```
/// use aligned::Alignment;
///
/// let sector = Alignment::SECTOR_512;
/// assert_eq!(sector.round_up(513), Some(1024));
/// assert_eq!(sector.round_down_u64(1023), 512);
/// assert_eq!(Alignment::new(768), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Alignment(
    // Invariant: a power of two, 1..=2^20. Hence `self.0 - 1` is the mask of the bits that an
    // aligned number leaves zero.
    usize,
);

impl Alignment {
    /// One byte: everything is aligned to it.
    pub const ANY: Self = Self(1);
    /// The sector of older disks, and of those that emulate one.
    pub const SECTOR_512: Self = Self(512);
    /// The block of today's disks and file systems, and the page of most processors.
    pub const BLOCK_4096: Self = Self(4096);
    /// The largest alignment: 1 MiB. No device known asks for more.
    pub const MAX: Self = Self(1 << 20);

    /// `bytes` as an alignment, or `None` unless it is a power of two from 1 to
    /// [`Alignment::MAX`].
    #[must_use]
    pub const fn new(bytes: usize) -> Option<Self> {
        if bytes.is_power_of_two() && bytes <= Self::MAX.0 { Some(Self(bytes)) } else { None }
    }

    /// The alignment in bytes.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.0
    }

    /// The alignment in bytes, for arithmetic on file offsets.
    #[inline]
    #[must_use]
    pub const fn bytes_u64(self) -> u64 {
        widen(self.0)
    }

    /// Whether `value` is a multiple of this alignment. Zero is.
    #[inline]
    #[must_use]
    pub const fn is_aligned(self, value: u64) -> bool {
        value & self.mask_u64() == 0
    }

    /// The smallest multiple that is not below `value`; `None` if a `usize` cannot hold it.
    #[inline]
    #[must_use]
    pub const fn round_up(self, value: usize) -> Option<usize> {
        let mask = self.0 - 1;
        match value.checked_add(mask) {
            Some(sum) => Some(sum & !mask),
            None => None,
        }
    }

    /// The smallest multiple that is not below `value`; `None` if a `u64` cannot hold it.
    #[inline]
    #[must_use]
    pub const fn round_up_u64(self, value: u64) -> Option<u64> {
        let mask = self.mask_u64();
        match value.checked_add(mask) {
            Some(sum) => Some(sum & !mask),
            None => None,
        }
    }

    /// The largest multiple that is not above `value`.
    #[inline]
    #[must_use]
    pub const fn round_down_u64(self, value: u64) -> u64 {
        value & !self.mask_u64()
    }

    /// The stricter of the two: what is aligned to it is aligned to both.
    #[inline]
    #[must_use]
    pub const fn max(self, other: Self) -> Self {
        if self.0 >= other.0 { self } else { other }
    }

    /// Checks the three rules of direct I/O, in the order of [`Rule`]: the address of `buffer`,
    /// the `offset` in the file in bytes, and the length of `buffer` are multiples of this
    /// alignment.
    ///
    /// # Errors
    ///
    /// [`Misaligned`] names the first rule that is broken, and the value that breaks it.
    ///
    /// ```
    /// use aligned::{Alignment, Buffer, Rule};
    ///
    /// let block = Alignment::BLOCK_4096;
    /// let mut buffer = Buffer::zeroed(block, 4096)?;
    /// let refused = block.check(buffer.as_mut_slice(), 100).unwrap_err();
    /// assert_eq!((refused.rule(), refused.value()), (Rule::Offset, 100));
    /// # Ok::<(), aligned::AllocError>(())
    /// ```
    #[inline]
    pub fn check(self, buffer: &[u8], offset: u64) -> Result<(), Misaligned> {
        let address = widen(buffer.as_ptr().addr());
        let len = widen(buffer.len());
        // All is well iff no low bit is set in any of the three: one test on the hot path.
        if self.is_aligned(address | offset | len) {
            return Ok(());
        }
        Err(self.first_broken(address, offset, len))
    }

    #[cold]
    fn first_broken(self, address: u64, offset: u64, len: u64) -> Misaligned {
        let (rule, value) = if !self.is_aligned(address) {
            (Rule::Address, address)
        } else if !self.is_aligned(offset) {
            (Rule::Offset, offset)
        } else {
            (Rule::Length, len)
        };
        Misaligned { rule, value, alignment: self }
    }

    const fn mask_u64(self) -> u64 {
        self.bytes_u64() - 1
    }
}

impl fmt::Display for Alignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One of the three rules of direct I/O.
///
/// Exhaustive: a request has an address, an offset and a length, and nothing else to align.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a request has nothing else to align")]
pub enum Rule {
    /// The address of the memory.
    Address,
    /// The offset in the file.
    Offset,
    /// The number of bytes.
    Length,
}

/// A request that direct I/O would refuse. Converts to an [`io::Error`] of kind
/// [`io::ErrorKind::InvalidInput`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misaligned {
    rule: Rule,
    value: u64,
    alignment: Alignment,
}

impl Misaligned {
    /// The rule that is broken.
    #[must_use]
    pub const fn rule(&self) -> Rule {
        self.rule
    }

    /// The address, offset or length that breaks it, in bytes.
    #[must_use]
    pub const fn value(&self) -> u64 {
        self.value
    }

    /// The alignment that was asked for.
    #[must_use]
    pub const fn alignment(&self) -> Alignment {
        self.alignment
    }
}

impl fmt::Display for Misaligned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, value, alignment } = self;
        match rule {
            Rule::Address => write!(f, "buffer address {value:#x}")?,
            Rule::Offset => write!(f, "file offset {value}")?,
            Rule::Length => write!(f, "length {value}")?,
        }
        write!(f, " is not a multiple of {alignment} bytes")
    }
}

impl error::Error for Misaligned {}

impl From<Misaligned> for io::Error {
    fn from(misaligned: Misaligned) -> Self {
        Self::new(io::ErrorKind::InvalidInput, misaligned)
    }
}

const _: () = assert!(usize::BITS <= u64::BITS, "widen() never loses a bit");

/// `usize` to `u64`, in constants too, where `From` and `TryFrom` cannot go.
#[expect(clippy::as_conversions, reason = "widening only: asserted above")]
const fn widen(value: usize) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Buffer;

    #[test]
    fn only_powers_of_two_up_to_the_largest() {
        for bytes in 0..=2 * Alignment::MAX.bytes() + 1 {
            let naive = (0..=20).any(|shift| bytes == 1 << shift);
            assert_eq!(Alignment::new(bytes).is_some(), naive, "{bytes}");
        }
        assert_eq!(Alignment::new(usize::MAX), None);
        assert_eq!(Alignment::new(1 << 63), None);
    }

    #[test]
    fn rounding_agrees_with_division() {
        for shift in 0..=20_u32 {
            let alignment = Alignment::new(1 << shift).unwrap();
            let bytes = alignment.bytes_u64();
            for near in [0, 1, 511, 512, 513, 4095, 4096, 4097, bytes, 7 * bytes, 1 << 40] {
                for value in [near, near + 1, near.saturating_sub(1)] {
                    let up = value.div_ceil(bytes) * bytes;
                    assert_eq!(alignment.round_up_u64(value), Some(up));
                    assert_eq!(alignment.round_down_u64(value), value / bytes * bytes);
                    assert_eq!(alignment.is_aligned(value), value % bytes == 0);
                    let small = usize::try_from(value).unwrap();
                    assert_eq!(alignment.round_up(small).map(widen), Some(up));
                }
            }
        }
    }

    #[test]
    fn rounding_up_never_wraps() {
        let block = Alignment::BLOCK_4096;
        assert_eq!(block.round_up(usize::MAX), None);
        assert_eq!(block.round_up_u64(u64::MAX - 4094), None);
        assert_eq!(block.round_up_u64(u64::MAX - 4095), Some(u64::MAX - 4095));
        assert_eq!(Alignment::ANY.round_up(usize::MAX), Some(usize::MAX));
    }

    #[test]
    fn the_stricter_one_wins() {
        let (small, large) = (Alignment::SECTOR_512, Alignment::BLOCK_4096);
        assert_eq!(small.max(large), large);
        assert_eq!(large.max(small), large);
    }

    #[test]
    fn check_names_the_first_rule_broken() {
        let sector = Alignment::SECTOR_512;
        let mut buffer = Buffer::zeroed(Alignment::BLOCK_4096, 4096).unwrap();
        let bytes = buffer.as_mut_slice();
        assert_eq!(sector.check(bytes, 1024), Ok(()));
        assert_eq!(sector.check(&bytes[..0], 0), Ok(()));
        assert_eq!(Alignment::ANY.check(&bytes[1..4], 3), Ok(()));

        let address = widen(bytes.as_ptr().addr()) + 1;
        let of = |refused: Result<(), Misaligned>| {
            let refused = refused.unwrap_err();
            assert_eq!(refused.alignment(), sector);
            (refused.rule(), refused.value())
        };
        assert_eq!(of(sector.check(&bytes[1..4], 3)), (Rule::Address, address));
        assert_eq!(of(sector.check(&bytes[..3], 3)), (Rule::Offset, 3));
        assert_eq!(of(sector.check(&bytes[..3], 0)), (Rule::Length, 3));
    }

    #[test]
    fn misaligned_is_invalid_input() {
        let misaligned = Alignment::SECTOR_512.first_broken(0, 100, 512);
        assert_eq!(misaligned.to_string(), "file offset 100 is not a multiple of 512 bytes");
        let error = io::Error::from(misaligned);
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.get_ref().is_some_and(|inner| inner.is::<Misaligned>()));
    }
}
