/*!
What would be on the disk: [`Base`], everything that is settled, and [`ImageFile`], one image of it in
a file.

The file is made anew for each state, because mounting and recovering write to it: every block that
was ever written is copied, and every other that is there is punched out. That is a few megabytes, and
far less than what a mount costs.
*/

use super::{
    event::{Content, Event},
    state::{SECTOR_BYTES, State, Tear},
    window::Window,
};
use crate::random::Random;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

const BLOCK_BYTES: usize = 4096;

/// The disk as it is settled up to some window.
#[derive(Debug)]
pub(super) struct Base<'a> {
    events: &'a [Event],
    windows: &'a [Window],
    bytes: Vec<u8>,
    /// Which blocks were ever written.
    written: Vec<bool>,
    /// How many windows were entered.
    entered: usize,
}

impl<'a> Base<'a> {
    pub(super) fn new(events: &'a [Event], windows: &'a [Window], disk_bytes: usize) -> Self {
        let written = vec![false; disk_bytes.div_ceil(BLOCK_BYTES)];
        Self { events, windows, bytes: vec![0; disk_bytes], written, entered: 0 }
    }

    /// Goes forward to window number `window`.
    ///
    /// # Panics
    /// If it is further than that already.
    pub(super) fn advance(&mut self, window: usize) {
        assert!(self.entered <= window + 1, "a base never goes back");
        while self.entered <= window {
            for write in &self.windows[self.entered].newly_settled {
                let Event::Write { offset, content } = &self.events[*write] else { continue };
                let start = to_usize(*offset);
                let room = &mut self.bytes[start..start + to_usize(content.len())];
                match content {
                    Content::Bytes(bytes) => room.copy_from_slice(bytes),
                    Content::Zeros(_) => room.fill(0),
                }
                // Zeros where nothing was written stay a hole.
                let blocks =
                    start / BLOCK_BYTES..(start + to_usize(content.len())).div_ceil(BLOCK_BYTES);
                if matches!(content, Content::Bytes(_)) {
                    self.written[blocks].fill(true);
                }
            }
            self.entered += 1;
        }
    }

    /// The stretches of bytes whose blocks were written.
    fn stretches(&self) -> impl Iterator<Item = (usize, &[u8])> {
        self.written
            .chunk_by(|a, b| a == b)
            .scan(0, |start, blocks| {
                let from = *start;
                *start += blocks.len();
                Some((from * BLOCK_BYTES, *start * BLOCK_BYTES, blocks[0]))
            })
            .filter(|(_, _, written)| *written)
            .map(|(from, to, _)| (from, &self.bytes[from..to.min(self.bytes.len())]))
    }
}

/// A file as long as the disk.
#[derive(Debug)]
pub(super) struct ImageFile {
    file: File,
    bytes: u64,
}

impl ImageFile {
    pub(super) fn create(path: &Path, bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        file.set_len(bytes)?;
        Ok(Self { file, bytes })
    }

    /// Makes the file the image of `state`, to whose window `base` was advanced.
    pub(super) fn build(&self, base: &Base<'_>, state: &State) -> io::Result<()> {
        let window = &base.windows[state.window];
        self.clear_outside(base)?;
        for (start, bytes) in base.stretches() {
            self.file.write_all_at(bytes, to_u64(start))?;
        }
        for place in &state.survivors {
            let Event::Write { offset, content } = &base.events[window.pending[*place]] else {
                continue;
            };
            let tear = state.tear.as_ref().filter(|tear| tear.place == *place);
            match (content, tear) {
                (Content::Zeros(length), _) => self.punch(*offset, *length)?,
                (Content::Bytes(bytes), None) => self.file.write_all_at(bytes, *offset)?,
                (Content::Bytes(bytes), Some(tear)) => self.write_torn(bytes, *offset, tear)?,
            }
        }
        Ok(())
    }

    /// Zeros for every block that an earlier state left and that the base does not write.
    fn clear_outside(&self, base: &Base<'_>) -> io::Result<()> {
        let mut at = 0;
        while let Some((start, end)) = self.data_from(at)? {
            let blocks = to_usize(start) / BLOCK_BYTES..to_usize(end).div_ceil(BLOCK_BYTES);
            let mut block = blocks.start;
            for stretch in base.written[blocks].chunk_by(|a, b| a == b) {
                if !stretch[0] {
                    self.punch(to_u64(block * BLOCK_BYTES), to_u64(stretch.len() * BLOCK_BYTES))?;
                }
                block += stretch.len();
            }
            at = end;
        }
        Ok(())
    }

    /// The first stretch at or after `at` that is not a hole.
    fn data_from(&self, at: u64) -> io::Result<Option<(u64, u64)>> {
        if at >= self.bytes {
            return Ok(None);
        }
        match seek(&self.file, SeekFrom::Data(at)) {
            Ok(start) => Ok(Some((start, seek(&self.file, SeekFrom::Hole(start))?))),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let length = length.min(self.bytes - offset);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.file, flags, offset, length)?)
    }

    fn write_torn(&self, bytes: &[u8], offset: u64, tear: &Tear) -> io::Result<()> {
        let mut random = Random::new(tear.seed);
        let mut at = offset;
        for (number, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
            if !tear.lost.contains(&number) {
                self.file.write_all_at(sector, at)?;
            } else if tear.garbage == Some(number) {
                let garbage: Vec<u8> =
                    (0..SECTOR_BYTES / 8).flat_map(|_| random.next().to_le_bytes()).collect();
                self.file.write_all_at(&garbage[..sector.len()], at)?;
            }
            at += to_u64(sector.len());
        }
        Ok(())
    }
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK_BYTES: usize = 16 * BLOCK_BYTES;

    fn write(block: usize, byte: u8) -> Event {
        let content = Content::of(&[byte; BLOCK_BYTES]);
        Event::Write { offset: to_u64(block * BLOCK_BYTES), content }
    }

    fn read(image: &ImageFile) -> Vec<u8> {
        let mut bytes = vec![0xFF; DISK_BYTES];
        image.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// The image as somebody without any cleverness would make it.
    fn naive(events: &[Event], writes: impl IntoIterator<Item = usize>) -> Vec<u8> {
        let mut bytes = vec![0; DISK_BYTES];
        for number in writes {
            let Event::Write { offset, content } = &events[number] else { panic!("no write") };
            let range = to_usize(*offset)..to_usize(*offset + content.len());
            match content {
                Content::Bytes(new) => bytes[range].copy_from_slice(new),
                Content::Zeros(_) => bytes[range].fill(0),
            }
        }
        bytes
    }

    fn image() -> (tempfile::TempDir, ImageFile) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        (directory, ImageFile::create(&path, to_u64(DISK_BYTES)).unwrap())
    }

    #[test]
    fn an_image_is_what_is_settled_and_what_survives_and_nothing_else() {
        let events = [
            write(1, 1),
            write(2, 2),
            Event::Mark(super::super::window::START.to_owned()),
            write(2, 3), // 3
            write(5, 4), // 4
            Event::Done { write: 3 },
            Event::FlushBegin,
            write(1, 0), // 7: zeros over bytes
            Event::FlushEnd { flush: 6 },
            write(7, 8), // 9
        ];
        let windows = super::super::window::windows(&events);
        let (_directory, image) = image();
        let mut base = Base::new(&events, &windows, DISK_BYTES);
        let mut settled: Vec<usize> = Vec::new();
        for (number, window) in windows.iter().enumerate() {
            base.advance(number);
            settled.extend(&window.newly_settled);
            for mask in 0..1_usize << window.pending.len() {
                let survivors: Vec<usize> =
                    (0..window.pending.len()).filter(|place| mask >> place & 1 == 1).collect();
                let writes: Vec<usize> =
                    survivors.iter().map(|place| window.pending[*place]).collect();
                // What a file system, or a log, might have left there.
                image.file.write_all_at(&[9; 3 * BLOCK_BYTES], to_u64(4 * BLOCK_BYTES)).unwrap();
                let state = State { window: number, survivors, tear: None };
                image.build(&base, &state).unwrap();
                let expected = naive(&events, settled.iter().copied().chain(writes));
                assert_eq!(read(&image), expected, "window {number}, mask {mask:b}");
            }
        }
        assert_eq!(windows.len(), 2);
    }

    #[test]
    fn a_torn_write_keeps_what_it_did_not_lose() {
        let events =
            [write(3, 1), Event::Mark(super::super::window::START.to_owned()), write(3, 2)];
        let windows = super::super::window::windows(&events);
        let (_directory, image) = image();
        let mut base = Base::new(&events, &windows, DISK_BYTES);
        base.advance(0);
        let tear = Tear { place: 0, lost: vec![1, 5], garbage: Some(5), seed: 1 };
        let state = State { window: 0, survivors: vec![0], tear: Some(tear) };
        image.build(&base, &state).unwrap();
        let block = &read(&image)[3 * BLOCK_BYTES..4 * BLOCK_BYTES];
        for (number, sector) in block.chunks(SECTOR_BYTES).enumerate() {
            match number {
                1 => assert!(sector.iter().all(|byte| *byte == 1), "the old"),
                5 => assert!(sector.iter().any(|byte| *byte != 1 && *byte != 2), "garbage"),
                _ => assert!(sector.iter().all(|byte| *byte == 2), "the new"),
            }
        }
    }

    #[test]
    #[should_panic(expected = "never goes back")]
    fn a_base_never_goes_back() {
        let events = [Event::Mark(super::super::window::START.to_owned())];
        let windows = super::super::window::windows(&events);
        let windows = [windows[0].clone(), windows[0].clone()];
        let mut base = Base::new(&events, &windows, DISK_BYTES);
        base.advance(1);
        base.advance(0);
        base.entered = 3;
        base.advance(0);
    }
}
