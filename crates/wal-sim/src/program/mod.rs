/*!
The log itself as a program to be explored: [`LogProgram`] writes to it in every way it offers, from
several threads, and checks after each crash that the [`Model`](crate::Model) holds.
*/

mod check;
mod damaged;
mod write;

use crate::{
    disk::Disk,
    explore::{Coverage, Explorer, Failure, Life},
    model::Said,
    random::{Random, mix},
};
use std::{fmt, time::Duration};
use wal::{Options, io::Storage};

/// Writes to the log in every way it offers, and recovers it. `wrap` puts a storage of the caller's
/// own between the log and the disk, to see whether its faults are found.
///
/// ```
/// use wal_sim::{Explorer, LogProgram};
///
/// let coverage = LogProgram::new(|disk| disk).explore(&Explorer::new(7).states(300)).unwrap();
/// assert!(coverage.states() >= 300);
/// ```
#[derive(Clone)]
pub struct LogProgram<F> {
    wrap: F,
    wraps_recovery: bool,
}

impl<S: Storage + Clone, F: Fn(Disk) -> S + Sync> LogProgram<F> {
    /// A log on what `wrap` makes of the disk: `|disk| disk` for the disk itself.
    pub fn new(wrap: F) -> Self {
        Self { wrap, wraps_recovery: true }
    }

    /// Has later lives recover on the disk itself.
    #[must_use]
    pub fn recovering_on_the_disk(self) -> Self {
        Self { wraps_recovery: false, ..self }
    }

    /// Explores it.
    ///
    /// # Errors
    /// What [`Explorer::explore`] found.
    pub fn explore(&self, explorer: &Explorer) -> Result<Coverage, Failure> {
        let work = |life: &Life<Said>| self.work(life);
        explorer.explore(work, |life| self.check(life))
    }

    /// The first life.
    pub fn work(&self, life: &Life<Said>) {
        write::work(life, &(self.wrap)(life.disk()));
    }

    /// Every later life.
    ///
    /// # Errors
    /// What the model does not allow.
    pub fn check(&self, life: &Life<Said>) -> Result<(), String> {
        if self.wraps_recovery {
            check::check(life, &(self.wrap)(life.disk()))
        } else {
            check::check(life, &life.disk())
        }
    }
}

impl<F> fmt::Debug for LogProgram<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogProgram").finish_non_exhaustive()
    }
}

/// How a log is opened.
struct Settings {
    options: Options,
    /// Whether it may be full: then a close has no room to say that it was one.
    is_capped: bool,
}

/// Small segments, so that a few records fill them; everything else as `random` says.
fn settings(disk: &impl Storage, random: &mut Random) -> Settings {
    let sector = u32::try_from(disk.alignment().bytes()).unwrap_or(4096);
    let block = if random.one_in(6) { 4096.max(sector) } else { sector };
    let segment = u64::from(block) * random.choose(&[16, 16, 24]);
    let options = Options::new()
        .block_bytes(block)
        .segment_bytes(segment)
        .frame_bytes(16 << 10)
        .pool_bytes(random.choose(&[32, 32, 48, 128]) << 10)
        .depth(u32::try_from(random.between(1, 4)).unwrap_or(1))
        .linger(Duration::from_micros(random.choose(&[0, 50, 2000])))
        .confirm_after(Duration::from_micros(random.choose(&[100, 3000, 1_000_000])))
        .spare_bytes_max(segment * random.choose(&[0, 1, 8]));
    let is_capped = random.one_in(3);
    let segments_max = random.between(3, 6);
    let options = if is_capped { options.log_bytes_max(segment * segments_max) } else { options };
    Settings { options, is_capped }
}

/// The bytes of a record: another's differ. All but those that are shorter than a number.
fn payload(batch: u64, index: u64, bytes: usize) -> Vec<u8> {
    let mut payload = vec![0; bytes];
    Random::new(mix(&[batch, index])).fill(&mut payload);
    payload
}
