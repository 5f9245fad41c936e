//! Ways to ship the segments to a follower over a local socket, nothing checked.

use std::{
    io::{self, Read, Write},
    mem,
    os::unix::net::UnixStream,
    thread,
};

use rustix::fs::sendfile;
use wal_bench::{
    disk::{DiskFile, zeroed},
    figures::bytes_u64,
};

use crate::{
    mapping::{Mapping, Paging},
    sealed::{Sealed, Segment},
    ways::{Way, cached},
};

/// What the follower takes at once.
const CHUNK_BYTES: usize = 1 << 20;

/// All of them. A way answers with the bytes that the follower got.
pub(crate) fn shipped(sealed: &Sealed) -> Vec<Way<'_>> {
    let mapped = |out: &mut UnixStream| {
        let mut segments = sealed.segments().iter();
        segments.try_for_each(|it| out.write_all(Mapping::of(it, Paging::Touched)?.bytes()))
    };
    vec![
        Way::new("sendfile", || ship(|out| by_sendfile(sealed, out))),
        Way::new("direct, one ahead, + write", || ship(|out| by_direct_reads(sealed, out))),
        Way::new("mapped + write", move || ship(mapped)),
    ]
}

/// Gives `send` one end of a socket whose other end a thread reads away.
fn ship(send: impl FnOnce(&mut UnixStream) -> io::Result<()>) -> io::Result<u64> {
    let (mut out, follower) = UnixStream::pair()?;
    thread::scope(|scope| {
        let follower = scope.spawn(move || read_away(follower));
        let sent = send(&mut out);
        // What the follower sees as the end.
        drop(out);
        sent.and(follower.join().expect("the follower panicked"))
    })
}

fn read_away(mut socket: UnixStream) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut bytes = 0;
    loop {
        match socket.read(&mut buffer)? {
            0 => return Ok(bytes),
            read => bytes += bytes_u64(read),
        }
    }
}

fn by_sendfile(sealed: &Sealed, out: &UnixStream) -> io::Result<()> {
    for segment in sealed.segments() {
        let file = cached(segment)?;
        let (mut at, mut left) = (0, segment.bytes());
        while left > 0 {
            match sendfile(out, &file, Some(&mut at), left)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                sent => left -= sent,
            }
        }
    }
    Ok(())
}

/// Each segment is read while the one before it is sent.
fn by_direct_reads(sealed: &Sealed, out: &mut UnixStream) -> io::Result<()> {
    let read = |segment: &Segment, buffer: &mut [u8]| {
        DiskFile::open(segment.path())?.read(&mut buffer[..segment.bytes()], 0)
    };
    let longest = sealed.segments().iter().map(Segment::bytes).max().unwrap_or(0);
    let (mut full, mut next) = (zeroed(longest)?, zeroed(longest)?);
    let mut segments = sealed.segments().iter().peekable();
    if let Some(first) = segments.peek() {
        read(first, full.as_mut_slice())?;
    }
    while let Some(segment) = segments.next() {
        let coming = segments.peek().map(|segment| (*segment, next.as_mut_slice()));
        thread::scope(|scope| {
            let reader =
                scope.spawn(move || coming.map_or(Ok(()), |(segment, next)| read(segment, next)));
            out.write_all(&full.as_mut_slice()[..segment.bytes()])?;
            reader.join().expect("the reader panicked")
        })?;
        mem::swap(&mut full, &mut next);
    }
    Ok(())
}
