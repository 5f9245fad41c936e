use super::*;
use aligned::Buffer;
use std::io::ErrorKind;

fn blocks(count: usize, byte: u8) -> Buffer {
    let mut buffer = Buffer::zeroed(Alignment::BLOCK_4096, count * PAGE_BYTES).unwrap();
    buffer.as_mut_slice().fill(byte);
    buffer
}

fn made(capacity: u64) -> Memory {
    let memory = Memory::with_capacity(capacity);
    memory.create().unwrap();
    memory
}

fn kind<T>(outcome: io::Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind())
}

#[test]
fn bytes_survive_their_handles() {
    let memory = Memory::new();
    assert_eq!(kind(memory.list()), Some(ErrorKind::NotFound));
    memory.create().unwrap();
    let file = memory.create_file("a").unwrap();
    // Across pages, and begun inside one.
    file.write_durable_at(blocks(2, 7).as_mut_slice(), 512).unwrap();
    assert_eq!(kind(memory.create_file("a")), Some(ErrorKind::AlreadyExists));
    drop(file);
    let clone = memory.clone();
    drop(memory);
    clone.create().unwrap();
    clone.rename("a", "b").unwrap();
    assert_eq!(clone.list().unwrap(), ["b"]);

    let file = clone.open("b", Access::Read).unwrap();
    let mut read = blocks(3, 1);
    let read = read.as_mut_slice();
    assert_eq!(file.read_at(read, 0).unwrap(), 512 + 2 * PAGE_BYTES);
    assert!(read[..512].iter().all(|byte| *byte == 0));
    assert!(read[512..512 + 2 * PAGE_BYTES].iter().all(|byte| *byte == 7));
    assert!(file.write_at(&read[..512], 0).is_err());
    assert_eq!(file.read_at(read, 1 << 40).unwrap(), 0);
}

#[test]
fn misaligned_input_is_refused() {
    let file = made(u64::MAX).create_file("a").unwrap();
    let mut buffer = blocks(1, 1);
    let buffer = buffer.as_mut_slice();
    assert_eq!(kind(file.write_at(buffer, 1)), Some(ErrorKind::InvalidInput));
    assert_eq!(kind(file.write_at(&buffer[..100], 0)), Some(ErrorKind::InvalidInput));
    assert_eq!(kind(file.read_at(&mut buffer[1..513], 0)), Some(ErrorKind::InvalidInput));
}

#[test]
fn room_is_taken_by_writing_and_given_back() {
    let memory = made(4 * PAGE_LENGTH);
    let file = memory.create_file("a").unwrap();
    let used = || memory.0.room.pages_used.load(Ordering::Relaxed);
    file.set_len(4 * PAGE_LENGTH).unwrap();
    assert_eq!(used(), 0);
    assert_eq!(kind(file.set_len(5 * PAGE_LENGTH)), Some(ErrorKind::StorageFull));
    assert!(file.write_zeroes(0, 3 * PAGE_LENGTH).unwrap());
    assert_eq!(used(), 3);

    let other = memory.create_file("b").unwrap();
    // Refused as a whole; an overwrite needs no room.
    let refused = other.write_at(blocks(2, 1).as_mut_slice(), 0);
    assert_eq!((kind(refused), used()), (Some(ErrorKind::StorageFull), 3));
    assert_eq!(other.len().unwrap(), 0);
    file.write_at(blocks(3, 1).as_mut_slice(), 0).unwrap();
    other.write_at(blocks(1, 1).as_mut_slice(), 0).unwrap();
    assert_eq!(used(), 4);

    file.set_len(PAGE_LENGTH + 512).unwrap();
    assert_eq!(used(), 3);
    memory.remove("a").unwrap();
    assert_eq!((file.links().unwrap(), used()), (0, 3));
    drop(file);
    assert_eq!(used(), 1);
    drop(other);
    let third = memory.create_file("c").unwrap();
    memory.rename("c", "b").unwrap();
    assert_eq!((third.links().unwrap(), used()), (1, 0));
}

#[test]
fn a_shortened_file_grows_again_with_zeros() {
    let file = made(u64::MAX).create_file("a").unwrap();
    file.write_at(blocks(2, 7).as_mut_slice(), 0).unwrap();
    file.set_len(512).unwrap();
    file.set_len(2 * PAGE_LENGTH).unwrap();
    let mut read = blocks(2, 1);
    assert_eq!(file.read_at(read.as_mut_slice(), 0).unwrap(), 2 * PAGE_BYTES);
    assert_eq!(read.as_mut_slice().iter().filter(|byte| **byte == 7).count(), 512);
    assert_eq!(read.as_mut_slice().iter().filter(|byte| **byte == 0).count(), 8192 - 512);
}

#[test]
fn one_lock_at_a_time() {
    let memory = Memory::new();
    assert!(matches!(memory.lock(), Err(LockError::Io(_))));
    memory.create().unwrap();
    let lock = memory.lock().unwrap();
    let refused = memory.clone().lock();
    assert!(matches!(refused, Err(LockError::Held { pid }) if pid == Some(process::id())));
    memory.ending(&lock);
    for _ in 0..2 {
        assert!(matches!(memory.lock(), Err(LockError::Ending)));
    }
    drop(lock);
    assert!(memory.lock().is_ok());
    assert!(memory.processors() > 0);
}
