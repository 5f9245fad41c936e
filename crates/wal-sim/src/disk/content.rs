//! [`Content`]: the bytes of a file, cheap to copy.

use std::{ops::Range, sync::Arc};

pub(crate) const PAGE_BYTES: usize = 4096;

/// The bytes of a file. A clone shares its pages until one of the two is written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    len: usize,
    // Invariant: what a page holds past `len` is never read: growing gives it anew.
    pages: Vec<Page>,
}

#[derive(Clone, Debug, Default)]
enum Page {
    /// Never written: reads as zeros and takes no room.
    #[default]
    Hole,
    Zeros,
    Bytes(Arc<[u8; PAGE_BYTES]>),
}

/// What a write writes.
#[derive(Clone, Debug)]
pub(crate) enum Data {
    Zeros(usize),
    Bytes(Arc<[u8]>),
}

impl Data {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        if is_zero(bytes) { Self::Zeros(bytes.len()) } else { Self::Bytes(bytes.into()) }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Zeros(bytes) => *bytes,
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// The bytes of `range`; `None` for zeros.
    pub(crate) fn bytes(&self, range: Range<usize>) -> Option<&[u8]> {
        match self {
            Self::Zeros(_) => None,
            Self::Bytes(bytes) => Some(&bytes[range]),
        }
    }
}

impl Content {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many pages take room.
    pub(crate) fn pages_used(&self) -> usize {
        self.pages.iter().filter(|page| !matches!(page, Page::Hole)).count()
    }

    /// How many pages of `range` take no room yet.
    pub(crate) fn pages_missing(&self, range: Range<usize>) -> usize {
        let pages = range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES);
        pages.filter(|page| matches!(self.pages.get(*page), None | Some(Page::Hole))).count()
    }

    /// Fills `buffer` from `offset` on and answers how many bytes there were.
    pub(crate) fn read(&self, buffer: &mut [u8], offset: usize) -> usize {
        let bytes = self.len.saturating_sub(offset).min(buffer.len());
        for piece in pieces(offset, bytes) {
            let target = &mut buffer[piece.from..piece.from + piece.bytes];
            match self.pages.get(piece.page) {
                Some(Page::Bytes(page)) => {
                    target.copy_from_slice(&page[piece.start..piece.start + piece.bytes]);
                }
                _ => target.fill(0),
            }
        }
        bytes
    }

    /// Writes the part `range` of `data`, all of which would begin at `offset`.
    pub(crate) fn write(&mut self, data: &Data, offset: usize, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let start = offset + range.start;
        self.grow(start + range.len());
        for piece in pieces(start, range.len()) {
            let from = range.start + piece.from;
            let page = &mut self.pages[piece.page];
            match data.bytes(from..from + piece.bytes) {
                Some(source) => {
                    page.bytes_mut()[piece.start..piece.start + piece.bytes].copy_from_slice(source)
                }
                None if piece.bytes == PAGE_BYTES => *page = Page::Zeros,
                None => match page {
                    Page::Bytes(bytes) => {
                        Arc::make_mut(bytes)[piece.start..piece.start + piece.bytes].fill(0);
                    }
                    Page::Hole | Page::Zeros => *page = Page::Zeros,
                },
            }
        }
    }

    /// Makes the file at least `len` long; what is new reads as zeros.
    pub(crate) fn grow(&mut self, len: usize) {
        if len <= self.len {
            return;
        }
        self.pages.resize(len.div_ceil(PAGE_BYTES), Page::Hole);
        self.len = len;
    }

    /// Cuts or grows the file to `len`.
    pub(crate) fn set_len(&mut self, len: usize) {
        if len >= self.len {
            self.grow(len);
            return;
        }
        self.pages.truncate(len.div_ceil(PAGE_BYTES));
        if let Some(Page::Bytes(page)) = self.pages.last_mut()
            && !len.is_multiple_of(PAGE_BYTES)
        {
            Arc::make_mut(page)[len % PAGE_BYTES..].fill(0);
        }
        self.len = len;
    }
}

impl Page {
    fn bytes_mut(&mut self) -> &mut [u8; PAGE_BYTES] {
        if !matches!(self, Self::Bytes(_)) {
            *self = Self::Bytes(Arc::new([0; PAGE_BYTES]));
        }
        match self {
            Self::Bytes(bytes) => Arc::make_mut(bytes),
            _ => unreachable!("it was made one that has bytes"),
        }
    }
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<16>();
    chunks.iter().all(|chunk| *chunk == [0; 16]) && rest.iter().all(|byte| *byte == 0)
}

/// The part of a range that lies in one page.
struct Piece {
    page: usize,
    /// Where it begins in the page.
    start: usize,
    /// Where it begins in the range.
    from: usize,
    bytes: usize,
}

fn pieces(offset: usize, bytes: usize) -> impl Iterator<Item = Piece> {
    let mut page = offset / PAGE_BYTES;
    let mut start = offset % PAGE_BYTES;
    let mut from = 0;
    std::iter::from_fn(move || {
        let piece = Piece { page, start, from, bytes: (PAGE_BYTES - start).min(bytes - from) };
        (page, start, from) = (page + 1, 0, from + piece.bytes);
        (piece.bytes > 0).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// The same as a plain vector, whatever is written and cut.
    #[test]
    fn a_content_is_a_vector_of_bytes() {
        let mut random = Random::new(5);
        let (mut content, mut plain) = (Content::default(), Vec::new());
        for _ in 0..400 {
            let offset = random.index(20) * 512;
            let mut bytes = vec![0; random.index(12) * 512];
            match random.below(4) {
                0 => {
                    let len = random.index(24) * 512;
                    content.set_len(len);
                    plain.resize(len, 0);
                }
                kind => {
                    if kind > 1 {
                        random.fill(&mut bytes);
                    }
                    content.write(&Data::new(&bytes), offset, 0..bytes.len());
                    if !bytes.is_empty() {
                        plain.resize(plain.len().max(offset + bytes.len()), 0);
                        plain[offset..offset + bytes.len()].copy_from_slice(&bytes);
                    }
                }
            }
            let mut read = vec![1; plain.len() + 512];
            assert_eq!(content.read(&mut read, 0), plain.len());
            assert_eq!(read[..plain.len()], plain);
        }
    }
}
