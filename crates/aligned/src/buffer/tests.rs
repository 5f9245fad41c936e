use std::{mem, thread};

use super::*;

fn alignments() -> [Alignment; 4] {
    [1, 512, 4096, 65536].map(|bytes| Alignment::new(bytes).unwrap())
}

/// Enough to vary the sizes; the same in every run.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

#[test]
fn aligned_zeroed_and_long_enough() {
    for alignment in alignments() {
        for bytes in [0, 1, 511, 512, 513, 4096, 5000, 65536, 65537] {
            let mut buffer = Buffer::zeroed(alignment, bytes).unwrap();
            assert_eq!(buffer.len(), bytes.div_ceil(alignment.bytes()) * alignment.bytes());
            assert_eq!(buffer.alignment(), alignment);
            assert_eq!(buffer.pool_index(), None);
            let all = buffer.as_mut_slice();
            assert!(all.iter().all(|&byte| byte == 0));
            assert_eq!(alignment.check(all, 0), Ok(()));
        }
    }
}

#[test]
fn rooms_agree_with_a_vec() {
    let rounds = if cfg!(miri) { 5 } else { 500 };
    let mut random = Lcg(7);
    for round in 0..rounds {
        let block = alignments()[round % 4];
        let mut buffer = Buffer::zeroed(block, random.below(20_000)).unwrap();
        for reuse in 0..3_u8 {
            let mut model = Vec::new();
            loop {
                let bytes = random.below(buffer.len() / 4 + 2);
                let fits = model.len() + bytes <= buffer.len();
                assert_eq!(buffer.remaining(), buffer.len() - model.len());
                let room = buffer.reserve(bytes);
                assert_eq!(room.is_some(), fits, "{bytes} of {buffer:?}");
                let Some(mut room) = room else { break };
                assert_eq!(room.offset(), model.len());
                assert!(room.iter().all(|&byte| byte == 0));
                room.fill(reuse + 1);
                model.resize(model.len() + bytes, reuse + 1);
                assert_eq!(buffer.used(), model.len());
            }
            assert_eq!(buffer.filled(), model);
            model.resize(model.len().next_multiple_of(block.bytes()), 0);
            assert_eq!(buffer.padded(block), model);
            buffer.clear();
            assert_eq!(buffer.used(), 0);
        }
        assert!(buffer.as_mut_slice().iter().all(|&byte| byte == 0));
    }
}

/// The bytes of a record: what it is from its first byte on, and how long.
fn record(writer: u8, len: u8) -> impl Iterator<Item = u8> {
    [writer, len].into_iter().chain((2..len).map(move |at| at ^ writer))
}

#[test]
fn eight_threads_never_overlap() {
    let bytes = if cfg!(miri) { 4096 } else { 1 << 20 };
    let mut buffer = Buffer::zeroed(Alignment::BLOCK_4096, bytes).unwrap();
    let written: usize = thread::scope(|scope| {
        let buffer = &buffer;
        let writers = (1..=8_u8).map(|writer| {
            scope.spawn(move || {
                let mut random = Lcg(u64::from(writer));
                let mut written = 0;
                loop {
                    let len = u8::try_from(2 + random.below(200)).unwrap();
                    let Some(mut room) = buffer.reserve(len.into()) else { break written };
                    written += room.len();
                    for (byte, value) in room.iter_mut().zip(record(writer, len)) {
                        assert_eq!(mem::replace(byte, value), 0, "another writer's byte");
                    }
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).sum()
    });
    assert_eq!(written, buffer.used());
    assert!(buffer.remaining() < 202);
    let mut rest = &*buffer.filled();
    while let &[writer, len, ..] = rest {
        let (head, tail) = rest.split_at(len.into());
        assert!(head.iter().copied().eq(record(writer, len)));
        rest = tail;
    }
    assert!(rest.is_empty());
}

#[test]
fn refused_room_changes_nothing() {
    let mut buffer = Buffer::zeroed(Alignment::SECTOR_512, 512).unwrap();
    assert!(buffer.reserve(500).is_some());
    for bytes in [13, 512, usize::MAX - 499, usize::MAX] {
        assert!(buffer.reserve(bytes).is_none());
    }
    assert_eq!((buffer.used(), buffer.remaining()), (500, 12));
    assert_eq!(buffer.reserve(12).map(|room| room.offset()), Some(500));
    assert_eq!(buffer.reserve(0).map(|room| room.len()), Some(0));
    assert!(buffer.reserve(1).is_none());
    assert_eq!(buffer.padded(Alignment::SECTOR_512).len(), 512);
}

#[test]
#[expect(clippy::forget_non_drop, reason = "forgetting is what is tested")]
fn forgotten_room_only_loses_its_bytes() {
    let mut buffer = Buffer::zeroed(Alignment::SECTOR_512, 512).unwrap();
    mem::forget(buffer.reserve(2));
    buffer.reserve(1).unwrap().fill(9);
    assert_eq!(buffer.filled(), [0, 0, 9]);
    buffer.clear();
    assert_eq!(buffer.reserve(2).unwrap().into_slice(), [0, 0]);
}

#[test]
fn padding_is_zero_also_after_as_mut_slice() {
    let mut buffer = Buffer::zeroed(Alignment::SECTOR_512, 1024).unwrap();
    buffer.as_mut_slice().fill(7);
    assert_eq!(buffer.padded(Alignment::SECTOR_512), b"");
    buffer.reserve(3).unwrap().fill(1);
    let padded = buffer.padded(Alignment::SECTOR_512);
    assert_eq!((padded.len(), &padded[..3]), (512, &[1; 3][..]));
    assert!(padded[3..].iter().all(|&byte| byte == 0));
    buffer.clear();
    assert!(buffer.as_mut_slice().iter().all(|&byte| byte == 0));
}

#[test]
#[should_panic = "no block of 4096 bytes at 1 of 512"]
fn padding_beyond_the_end_panics() {
    let mut buffer = Buffer::zeroed(Alignment::SECTOR_512, 512).unwrap();
    assert!(buffer.reserve(1).is_some());
    buffer.padded(Alignment::BLOCK_4096);
}

#[test]
fn too_large_is_an_error() {
    let huge = Buffer::zeroed(Alignment::BLOCK_4096, usize::MAX).unwrap_err();
    assert_eq!(huge.kind(), AllocErrorKind::TooLarge);
    assert_eq!(io::Error::from(huge).kind(), io::ErrorKind::InvalidInput);
}

#[test]
#[cfg_attr(miri, ignore = "Miri stops the program instead of refusing")]
fn refused_memory_is_an_error() {
    let refused = Buffer::zeroed(Alignment::BLOCK_4096, 1 << 62).unwrap_err();
    assert_eq!(refused.kind(), AllocErrorKind::OutOfMemory);
    assert_eq!(io::Error::from(refused).kind(), io::ErrorKind::OutOfMemory);
    assert_eq!(
        refused.to_string(),
        "cannot allocate 1 x 4611686018427387904 bytes, aligned to 4096: out of memory"
    );
}

#[test]
fn shows_sizes_only() {
    let buffer = Buffer::zeroed(Alignment::SECTOR_512, 512).unwrap();
    let mut room = buffer.reserve(3).unwrap();
    room.copy_from_slice(b"key");
    assert_eq!(format!("{room:?}"), "Room { offset: 0, len: 3 }");
    assert_eq!(
        format!("{buffer:?}"),
        "Buffer { len: 512, used: 3, alignment: 512, pool_index: None }"
    );
}

#[test]
fn goes_to_and_is_shared_by_threads() {
    fn check<T: Send + Sync + std::panic::RefUnwindSafe>() {}
    check::<Buffer>();
    check::<Room<'_>>();
}

/// What `reserve` touches fits a cache line, and no other buffer's lies on it.
#[test]
fn own_cache_lines() {
    assert_eq!(align_of::<Buffer>(), 64);
}
