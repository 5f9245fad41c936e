//! One io_uring of durable overwrites of one file: the only unsafe code of the program.

use std::{fs::File, io, mem, os::fd::AsRawFd, ptr};

use aligned::{Alignment, Buffer, Pool};
use io_uring::{IoUring, opcode, types::Fixed};

use crate::{
    Stop,
    target::{FILLING, WRITE_BYTES_MAX},
};

/// A ring that knows its file and its buffers beforehand, used by the thread that made it.
///
/// Dropped while writes are under way, it waits for them.
pub(crate) struct Ring {
    kernel: IoUring,
    /// One for each write that can be under way, all in the region that the kernel knows as buffer 0.
    buffers: Vec<Buffer>,
    /// How long the write from each of them is; 0 while none is under way.
    lengths: Vec<u32>,
}

impl Ring {
    /// For up to `depth` writes to `file` at once, each from a buffer full of [`FILLING`]. Refused by
    /// an old kernel, a filter, a limit on locked memory.
    pub(crate) fn new(file: &File, depth: usize) -> Result<Self, Stop> {
        Self::registered(file, depth).map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::OutOfMemory => " (its buffers count against RLIMIT_MEMLOCK)",
                _ => "",
            };
            Stop::Refused(format!("no io_uring with registered buffers: {error}{hint}"))
        })
    }

    fn registered(file: &File, depth: usize) -> io::Result<Self> {
        let entries = u32::try_from(depth.next_power_of_two()).map_err(io::Error::other)?;
        let kernel: IoUring =
            IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries)?;
        kernel.submitter().register_files(&[file.as_raw_fd()])?;
        let pool = Pool::new(Alignment::BLOCK_4096, WRITE_BYTES_MAX, depth)?;
        let mut buffers: Vec<_> = (0..depth).map_while(|_| pool.take()).collect();
        for buffer in &mut buffers {
            buffer.as_mut_slice().fill(FILLING);
        }
        let region = pool.region();
        let iovec = libc::iovec {
            iov_base: ptr::with_exposed_provenance_mut(region.start),
            iov_len: region.len(),
        };
        let ring = Self { kernel, lengths: vec![0; buffers.len()], buffers };
        // SAFETY: `iovec` is the whole region of the pool, valid as long as one of its buffers lives.
        // The ring holds them all, lets go of none before it, and the kernel is told to read only.
        unsafe { ring.kernel.submitter().register_buffers(&[iovec]) }?;
        Ok(ring)
    }

    /// Queues a durable write of the first `bytes` bytes of buffer `index` to `offset`. The kernel
    /// sees it at the next [`submit`](Self::submit) or [`wait`](Self::wait).
    ///
    /// # Panics
    ///
    /// If the buffer is being written already, or is shorter.
    pub(crate) fn start(&mut self, index: usize, bytes: usize, offset: u64) -> io::Result<()> {
        assert_eq!(self.lengths[index], 0, "one write from each buffer");
        let length = u32::try_from(bytes).map_err(io::Error::other)?;
        let block = &self.buffers[index].as_mut_slice()[..bytes];
        let number = u64::try_from(index).map_err(io::Error::other)?;
        let entry = opcode::WriteFixed::new(Fixed(0), block.as_ptr(), length, 0)
            .offset(offset)
            .rw_flags(libc::RWF_DSYNC)
            .build()
            .user_data(number);
        // SAFETY: the `length` bytes lie in a buffer that the ring owns, and nobody touches them until
        // the completion was seen: `lengths` says that they are being written, `start` refuses them,
        // and Drop waits for the completion or leaks the memory.
        let pushed = unsafe { self.kernel.submission().push(&entry) };
        pushed.map_err(io::Error::other)?;
        self.lengths[index] = length;
        Ok(())
    }

    /// Has the kernel begin what was queued.
    pub(crate) fn submit(&self) -> io::Result<()> {
        self.kernel.submit().map(drop)
    }

    /// Submits, sleeps until one write at least has ended, and adds the buffers of all that have to
    /// `ended`.
    pub(crate) fn wait(&mut self, ended: &mut Vec<usize>) -> io::Result<()> {
        match self.kernel.submit_and_wait(1) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let mut first_error = None;
        for completion in self.kernel.completion() {
            let index = usize::try_from(completion.user_data()).map_err(io::Error::other)?;
            let length = mem::take(&mut self.lengths[index]);
            ended.push(index);
            match u32::try_from(completion.result()) {
                Ok(written) if written == length => {}
                Ok(_) => first_error = Some(io::ErrorKind::WriteZero.into()),
                Err(_) => first_error = Some(io::Error::from_raw_os_error(-completion.result())),
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Whether a write was started that has not been seen to end.
    pub(crate) fn is_busy(&self) -> bool {
        self.lengths.iter().any(|&length| length > 0)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut ended = Vec::new();
        while self.is_busy() {
            ended.clear();
            // A write that failed has ended; a wait that failed says nothing about any.
            if self.wait(&mut ended).is_err() && ended.is_empty() {
                mem::forget(mem::take(&mut self.buffers));
                return;
            }
        }
    }
}
