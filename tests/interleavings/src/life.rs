//! [`Life`]: a log from its creation on, what was said about it, and the power cuts it has to survive.

use crate::{
    disk::{Disk, Image},
    threads::{FOR_EVER, Threads, below, index},
};
use parking_lot::Mutex;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use wal::{Lsn, Options, OwnedRecord, Ticket, VerifyVerdict, Wal};
use wal_sim::{Model, Recovered, Said};

/// How many power cuts of one execution are recovered from, the one at its end not counted.
const CUTS_MAX: usize = 2;

/// What kind of log and disk an execution is about.
#[derive(Clone, Debug)]
#[must_use]
pub struct Setting {
    options: Options,
    depth: u32,
    early_one_in: u64,
}

impl Default for Setting {
    fn default() -> Self {
        // Nothing is written because time passes: a wake-up that is missed is a deadlock.
        let options = Options::new().block_bytes(512).segment_bytes(32 << 10).depth(2);
        let options = options.frame_bytes(16 << 10).pool_bytes(64 << 10);
        let options = options.linger(2 * FOR_EVER).confirm_after(24 * FOR_EVER);
        Self { options, depth: 2, early_one_in: 0 }
    }
}

impl Setting {
    /// Segments of 32 KiB, frames of 16, memory for four, two writes at once, and no timed writes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The length of a segment.
    pub fn segment_bytes(self, bytes: u64) -> Self {
        Self { options: self.options.segment_bytes(bytes), ..self }
    }

    /// The memory for frames.
    pub fn pool_bytes(self, bytes: u64) -> Self {
        Self { options: self.options.pool_bytes(bytes), ..self }
    }

    /// Writes what nobody waits for, and closes the last frame's window, after these times.
    pub fn times(self, linger: Duration, confirm_after: Duration) -> Self {
        Self { options: self.options.linger(linger).confirm_after(confirm_after), ..self }
    }

    /// One in `count` sleeps ends at once for no reason.
    pub fn early_one_in(self, count: u64) -> Self {
        Self { early_one_in: count, ..self }
    }
}

/// One execution: its log, what was said about it, and images of some of its moments. Clones are handles
/// of the same one.
#[derive(Clone)]
pub struct Life(Arc<Inner>);

struct Inner {
    setting: Setting,
    disk: Disk,
    batches: AtomicU64,
    said: Mutex<Vec<Said>>,
    cuts: Mutex<Cuts>,
}

#[derive(Default)]
struct Cuts {
    moments: usize,
    /// What the disk would have held, and how much had been said by then.
    images: Vec<(Image, usize)>,
    /// The same, right after somebody believed a mark: all of them, for a wrong one is right a moment later.
    believed: Vec<(Image, usize)>,
}

/// A batch that was appended, and its ticket.
#[expect(clippy::exhaustive_structs, reason = "programs take it apart")]
#[derive(Debug)]
pub struct Appended {
    /// Its number.
    pub batch: u64,
    /// Its ticket.
    pub ticket: Ticket<Disk>,
}

impl Life {
    /// A new log on an empty disk; from here on the power may be cut at any moment.
    #[must_use]
    pub fn begin(setting: &Setting) -> (Self, Arc<Wal<Disk>>) {
        let threads = Threads::new(setting.early_one_in);
        let disk = Disk::new(&threads, setting.depth);
        let (said, cuts) = (Mutex::default(), Mutex::default());
        let setting = setting.clone();
        let life = Self(Arc::new(Inner { setting, disk, batches: AtomicU64::new(0), said, cuts }));
        let (wal, _) = life.recover(life.0.disk.clone(), 0);
        let weak = Arc::downgrade(&life.0);
        life.0.disk.watch(move || {
            if let Some(inner) = weak.upgrade() {
                Self(inner).consider_a_cut();
            }
        });
        (life, Arc::new(wal))
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.0.disk
    }

    /// Says something: who opens the log after a later power cut knows of it.
    pub fn say(&self, said: Said) {
        self.0.said.lock().push(said);
    }

    /// Says that the log is durable up to `mark`; the power may be cut that very moment.
    pub fn believe(&self, mark: Lsn) {
        self.say(Said::Durable(mark));
        let image = (self.0.disk.crash(), self.0.said.lock().len());
        self.0.cuts.lock().believed.push(image);
    }

    /// Has `append` append a batch of `records`, and says what came of it.
    ///
    /// # Errors
    /// That of `append`.
    pub fn append(
        &self,
        records: Vec<Vec<u8>>,
        append: impl FnOnce(&[Vec<u8>]) -> wal::Result<Ticket<Disk>>,
    ) -> wal::Result<Appended> {
        let batch = self.0.batches.fetch_add(1, Ordering::SeqCst);
        let records: Arc<[Vec<u8>]> = records.into();
        self.say(Said::Begun { batch, records: Arc::clone(&records) });
        match append(&records) {
            Ok(ticket) => {
                self.say(Said::Placed { batch, lsn: ticket.lsn() });
                Ok(Appended { batch, ticket })
            }
            Err(error) => {
                self.say(Said::Void { batch });
                Err(error)
            }
        }
    }

    /// Waits for what was appended, and says that it is durable.
    ///
    /// # Errors
    /// That of the wait.
    pub fn wait(&self, Appended { batch, ticket }: Appended) -> wal::Result<()> {
        ticket.wait()?;
        self.say(Said::Acknowledged { batch });
        Ok(())
    }

    /// Says that a reader saw `record`.
    pub fn see(&self, record: OwnedRecord) {
        self.say(Said::Seen { lsn: record.lsn, payload: record.payload });
    }

    /// Closes the log, and says so.
    ///
    /// # Panics
    /// If it cannot be closed.
    #[expect(clippy::expect_used, reason = "a test ends where it is surprised")]
    pub fn close(&self, wal: &Wal<Disk>) {
        wal.close().expect("a sound log closes");
        self.say(Said::Durable(wal.durable_lsn()));
        self.say(Said::Closed);
    }

    /// A payload of `bytes` bytes, at least eight, that no other record of this execution has.
    #[must_use]
    pub fn payload(&self, bytes: usize) -> Vec<u8> {
        let number = self.0.batches.fetch_add(1, Ordering::SeqCst);
        let mut payload = vec![number.to_le_bytes()[0]; bytes.max(8)];
        payload[..8].copy_from_slice(&number.to_le_bytes());
        payload
    }

    /// Recovers from the power cuts that were kept, and from one now.
    ///
    /// # Panics
    /// If the log does not hold what it must.
    pub fn check(&self) {
        let Cuts { mut images, believed, .. } = std::mem::take(&mut *self.0.cuts.lock());
        images.extend(believed);
        images.push((self.0.disk.crash(), self.0.said.lock().len()));
        // The process dies, and the machine goes on.
        images.push((self.0.disk.image(), self.0.said.lock().len()));
        for (image, said) in images {
            let disk = Disk::of_image(&Threads::new(0), self.0.setting.depth, &image);
            if below(4) == 0 {
                self.verify(disk.clone());
            }
            let (wal, found) = self.recover(disk.clone(), said);
            if below(4) == 0 {
                self.go_on(&disk, &wal, said, found);
            }
        }
    }

    /// Who only reads finds nothing that would be damage.
    #[expect(clippy::expect_used, reason = "a test ends where it is surprised")]
    fn verify(&self, disk: Disk) {
        let opened = self.0.setting.options.open_read_only_in(disk);
        let verification = opened.and_then(|mut log| log.verify()).expect("the log can be read");
        let is_sound = verification.verdict != VerifyVerdict::Corrupt;
        assert!(is_sound, "a crash is no damage: {verification:?}");
    }

    /// What was recovered is written to once more: nothing that was cut may come back behind it.
    #[expect(clippy::expect_used, reason = "a test ends where it is surprised")]
    fn go_on(&self, disk: &Disk, wal: &Wal<Disk>, said: usize, found: Recovered) {
        let payload = self.payload(100);
        let lsn = wal.append(&payload).and_then(Ticket::wait).expect("a recovered log goes on");
        let (batch, records) = (u64::MAX, [payload].into());
        let mut all = self.0.said.lock()[..said].to_vec();
        all.extend([
            Said::Found(Arc::new(found)),
            Said::Finished,
            Said::Begun { batch, records },
            Said::Placed { batch, lsn },
            Said::Acknowledged { batch },
        ]);
        let again = Disk::of_image(&Threads::new(0), 1, &disk.crash());
        self.read(again, &all);
    }

    fn recover(&self, disk: Disk, said: usize) -> (Wal<Disk>, Recovered) {
        let said = self.0.said.lock()[..said].to_vec();
        self.read(disk, &said)
    }

    #[expect(clippy::panic, clippy::expect_used, reason = "a test ends where it is surprised")]
    fn read(&self, disk: Disk, said: &[Said]) -> (Wal<Disk>, Recovered) {
        let mut replay = self.0.setting.options.open_in(disk).expect("the log opens");
        let found = Recovered::read(&mut replay).expect("the log can be read");
        if let Err(complaint) = Model::of(said).check(&found) {
            let story: Vec<_> = said.iter().map(tell).collect();
            panic!("{complaint}\n{}", story.join("\n"));
        }
        (replay.finish().expect("the log can be written").0, found)
    }

    /// Keeps some of the moments, each with the same chance.
    fn consider_a_cut(&self) {
        let mut cuts = self.0.cuts.lock();
        cuts.moments += 1;
        let place =
            if cuts.images.len() < CUTS_MAX { cuts.images.len() } else { index(cuts.moments) };
        if place < CUTS_MAX {
            cuts.images.truncate(CUTS_MAX);
            let image = (self.0.disk.crash(), self.0.said.lock().len());
            if place == cuts.images.len() {
                cuts.images.push(image);
            } else {
                cuts.images[place] = image;
            }
        }
    }
}

/// What was said, without the bytes.
fn tell(said: &Said) -> String {
    match said {
        Said::Begun { batch, records } => {
            let lengths: Vec<_> = records.iter().map(Vec::len).collect();
            format!("  batch {batch} begun: {lengths:?} bytes")
        }
        Said::Seen { lsn, payload } => format!("  seen at lsn {lsn}: {} bytes", payload.len()),
        Said::Found(found) => format!("  found: {} records", found.records.len()),
        other => format!("  {other:?}"),
    }
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Life").field("said", &self.0.said.lock().len()).finish_non_exhaustive()
    }
}
