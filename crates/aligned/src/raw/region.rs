//! [`Region`]: the memory of a pool, or of a buffer that has its own.

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::{
    alloc::{self, Layout},
    ffi::c_void,
    hint,
    ptr::{self, NonNull},
};

/// One allocation, every byte of which is initialised and was touched.
pub(super) struct Region {
    // Invariant: valid for reads and writes of `layout.size()` bytes, at least one, all initialised, and
    // aligned as the layout says. They are the region's alone, which gives them back to their source.
    start: NonNull<u8>,
    layout: Layout,
    source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The global allocator, asked with the layout.
    Allocator,
    /// A private mapping of so many bytes, a multiple of the page, that begins at `start`.
    Mapping { bytes: usize },
}

// SAFETY: the memory belongs to the region alone; the global allocator frees from any thread, and a
// mapping belongs to the process; plain bytes may move between threads.
unsafe impl Send for Region {}
// SAFETY: a shared region offers no access to its bytes.
unsafe impl Sync for Region {}

/// What one entry of a page table can map where pages are 4 KiB: a region from here on has pages of this
/// size if the kernel has any. A direct request for a megabyte is then one piece of memory for the device
/// and not 256, which counts for more than anything else that was tried.
const HUGE_PAGE: usize = 2 << 20;
/// As large as pages for all else are on x86, ARM and RISC-V, so that a multiple of it is one of the page's.
/// Where they are larger the system refuses to unmap what is in front and behind, and it stays reserved.
const PAGE_MAX: usize = 64 << 10;
/// The smallest.
const PAGE_MIN: usize = 4 << 10;

impl Region {
    /// `None` if the system refuses.
    pub(super) fn zeroed(layout: Layout) -> Option<Self> {
        // Miri knows not all the calls; and what watches a fuzzed program is in its allocator: whether memory
        // is taken on the word of a hostile length, or a neighbour's is touched.
        if layout.size() < HUGE_PAGE || cfg!(any(miri, fuzzing)) {
            return Self::allocated(layout);
        }
        Self::mapped(layout).or_else(|| Self::allocated(layout))
    }

    fn allocated(layout: Layout) -> Option<Self> {
        // The allocator must not be asked for zero bytes: one is added, and never looked at.
        let layout = Layout::from_size_align(layout.size().max(1), layout.align()).ok()?;
        // SAFETY: the layout's size is not zero (previous line).
        let start = NonNull::new(unsafe { alloc::alloc(layout) })?;
        // Not `alloc_zeroed`, whose pages the kernel may supply on first touch only, that is in
        // the hot path. The black box keeps the optimiser from joining the two into that call.
        let start = hint::black_box(start);
        // SAFETY: `start` is valid for writes of `layout.size()` bytes, just allocated, and every
        // address is aligned for u8.
        unsafe { start.write_bytes(0, layout.size()) };
        // Invariant: as allocated; initialised by the write above.
        Some(Self { start, layout, source: Source::Allocator })
    }

    /// Huge pages, all of them there. Given back, they are the system's at once: an allocator may keep
    /// what it was given back, 12 MiB of it after each open.
    fn mapped(layout: Layout) -> Option<Self> {
        if layout.align() > HUGE_PAGE {
            return None;
        }
        let bytes = layout.size().checked_next_multiple_of(PAGE_MAX)?;
        // Longer by a huge page, so that there is a place in it where one begins.
        let longer = bytes.checked_add(HUGE_PAGE)?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: without MAP_FIXED and with a null hint the kernel chooses free addresses: no
        // existing mapping changes.
        let whole = unsafe { mmap_anonymous(ptr::null_mut(), longer, prot, MapFlags::PRIVATE) };
        let whole = whole.ok()?.cast::<u8>();
        // A multiple of the page, for the mapping's address is one; at most HUGE_PAGE - 1.
        let before = whole.addr().next_multiple_of(HUGE_PAGE) - whole.addr();
        // Inside the mapping, or at its end: before + bytes <= longer.
        let (start, end) = (whole.wrapping_add(before), whole.wrapping_add(before + bytes));
        // SAFETY: what of the mapping is before `start`; nobody knows it.
        unsafe { unmap(whole, before) };
        // SAFETY: what of the mapping is behind the `bytes` bytes; nobody knows it.
        unsafe { unmap(end, HUGE_PAGE - before) };
        let range = start.cast::<c_void>();
        // Refused where the kernel has no huge pages: then they are small ones.
        // SAFETY: the range is in the mapping; advice on page sizes changes no byte of it.
        let _ = unsafe { madvise(range, bytes, Advice::LinuxHugepage) };
        for offset in (0..layout.size()).step_by(PAGE_MIN) {
            let byte = start.wrapping_add(offset);
            // SAFETY: offset < layout.size() <= bytes: inside the mapping, which is writable, and nobody
            // else knows it. Volatile, for what counts is that the kernel supplies the page.
            unsafe { byte.write_volatile(0) };
        }
        // Invariant: a new private mapping is zeros, hence initialised; its first `bytes` bytes from
        // `start` on, a multiple of HUGE_PAGE and so of the alignment (checked), are still mapped.
        Some(Self { start: NonNull::new(start)?, layout, source: Source::Mapping { bytes } })
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        match self.source {
            // SAFETY: allocated by this allocator with this layout and freed nowhere else (invariant).
            Source::Allocator => unsafe { alloc::dealloc(self.start.as_ptr(), self.layout) },
            // SAFETY: a mapping of its own from `start` on, whole pages (invariant); no reference to it
            // outlives the region.
            Source::Mapping { bytes } => unsafe { unmap(self.start.as_ptr(), bytes) },
        }
    }
}

/// Unmaps `bytes` bytes from `start` on. A drop neither panics nor reports: at worst the memory stays until
/// the process ends.
///
/// # Safety
///
/// They are none, or multiples of the page in a mapping of the caller's, and nobody reaches them again.
unsafe fn unmap(start: *mut u8, bytes: usize) {
    if bytes > 0 {
        // SAFETY: the caller's promise. In a forked child it is the child's own copy of the mapping.
        let _ = unsafe { munmap(start.cast(), bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(not(miri))]
    use {crate::raw::ask_child, std::io::Read};

    fn region(size: usize, align: usize) -> Region {
        Region::zeroed(Layout::from_size_align(size, align).unwrap()).unwrap()
    }

    /// What `/proc/self/smaps` says of the mapping that `address` is in.
    #[cfg(not(miri))]
    fn mapping(address: usize, what: &str) -> Option<String> {
        let all = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_inside = false;
        for line in all.lines() {
            let (first, rest) = line.split_once(' ').unwrap_or_default();
            let number = |text| usize::from_str_radix(text, 16).ok();
            match first.split_once('-').map(|(from, to)| (number(from), number(to))) {
                Some((Some(from), Some(to))) => is_inside = (from..to).contains(&address),
                _ if is_inside && first == what => return Some(rest.trim().to_owned()),
                _ => {}
            }
        }
        None
    }

    #[test]
    fn zeros_to_the_last_byte_at_any_length() {
        // Under Miri all come from the allocator, and a megabyte takes it seconds.
        let large = if cfg!(miri) { 8192 } else { HUGE_PAGE };
        for size in [0, 1, 4096, large - 1, large, large + 1, 3 * large + 5000] {
            for align in [1, 4096, 1 << 20] {
                let region = region(size, align);
                assert!(region.start().addr().get().is_multiple_of(align), "{size} {align}");
                // SAFETY: size bytes are valid and initialised, and only read here.
                let bytes = unsafe { std::slice::from_raw_parts(region.start().as_ptr(), size) };
                assert!(bytes.iter().all(|byte| *byte == 0), "{size} {align}");
                if size > 0 {
                    let last = region.start().as_ptr().wrapping_add(size - 1);
                    // SAFETY: in the region, which nobody else reaches.
                    unsafe { last.write(1) };
                }
            }
        }
    }

    #[cfg(not(miri))]
    #[test]
    fn large_ones_are_mapped_and_there_from_the_start() {
        let (small, large) = (region(HUGE_PAGE - 1, 4096), region(3 * HUGE_PAGE + 5000, 4096));
        assert_eq!(small.source, Source::Allocator);
        let bytes = 3 * HUGE_PAGE + PAGE_MAX;
        assert_eq!(large.source, Source::Mapping { bytes });
        let address = large.start().addr().get();
        assert!(address.is_multiple_of(HUGE_PAGE));
        // Neighbours may be counted with it, so this can be too much, but not too little.
        let there = mapping(address, "Rss:").unwrap();
        let there: u64 = there.trim_end_matches(" kB").parse().unwrap();
        assert!(there >= 3 * 2048 + 8, "{there} KiB of three huge pages and two small ones");
    }

    #[cfg(not(miri))]
    #[test]
    fn huge_pages_are_asked_for() {
        let region = region(2 * HUGE_PAGE, 4096);
        let flags = mapping(region.start().addr().get(), "VmFlags:").unwrap();
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            let text = "SKIPPED: this kernel has no huge pages to ask for";
            let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
            return;
        }
        // Whether it gets one is the kernel's to say, and not the same at every moment.
        assert!(flags.split(' ').any(|flag| flag == "hg"), "{flags}");
    }

    /// All of it, also what was mapped beyond it to find a place.
    #[cfg(not(miri))]
    #[test]
    fn given_back_they_are_the_systems() {
        // Without an allocation, for in a child of a process with threads nobody may wait for a lock.
        let mapped_pages = || {
            let mut text = [0; 128];
            let read = std::fs::File::open("/proc/self/statm").ok()?.read(&mut text).ok()?;
            let first = text[..read].split(|byte| *byte == b' ').next()?;
            std::str::from_utf8(first).ok()?.parse::<u64>().ok()
        };
        let layout = Layout::from_size_align(2 * HUGE_PAGE, 4096).unwrap();
        // In a child, where no other test maps anything.
        assert!(ask_child(|| {
            let before = mapped_pages();
            let all = (0..64).all(|_| Region::mapped(layout).is_some());
            let more = mapped_pages().zip(before).map(|(now, before)| now.saturating_sub(before));
            all && more.is_some_and(|pages| pages < 1000)
        }));
    }
}
