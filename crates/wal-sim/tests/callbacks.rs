//! Callbacks that do anything a program may do, on hosts that treat threads as they like.

use crate::script::options;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};
use wal::{
    ErrorKind, Options, Wal,
    io::{Host as _, Storage as _},
};
use wal_sim::{Disk, DiskOptions, Effect, Fault, Random, Spawned, Verb, World};

fn open(disk: &Disk, options: &Options) -> Arc<Wal<Disk>> {
    let mut replay = options.open_in(disk.clone()).unwrap();
    replay.skip_rest();
    Arc::new(replay.finish().unwrap().0)
}

/// The threads of a host may be used again, and the memory of an engine, too. A thread that had once been
/// one of a log's own was taken for a thread of the next log at that address: its close ended one thread
/// too early, so that the log was still locked, and the committers were counted wrong.
#[test]
fn a_thread_that_a_log_had_is_the_next_ones_guest() {
    for seed in 0..100 {
        let world = World::new(seed);
        let disk = Disk::new(&world, &DiskOptions::new());
        let life = || {
            open(&disk, &options()).close().unwrap();
            for _ in 0..5 {
                let wal = open(&disk, &options());
                let users = [0; 3].map(|_| {
                    let wal = Arc::clone(&wal);
                    world.spawn("user", move || {
                        for _ in 0..4 {
                            let ticket = wal.append(&[7; 100]).unwrap();
                            wal.append(&[7; 100]).unwrap().on_durable(drop);
                            ticket.wait().unwrap();
                        }
                    })
                });
                users.into_iter().for_each(Spawned::join);
                let disk = disk.clone();
                let closer = world.spawn("closer", move || {
                    drop(wal.append(b"the last one").unwrap());
                    wal.close().unwrap();
                    drop(options().open_in(disk).unwrap());
                });
                closer.join();
            }
        };
        world.run(life).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    }
}

/// A close of one log calls back, and the callback closes a second one; that calls back, and closes the
/// first. It remembered only the innermost of the logs that its thread was closing, and waited for itself.
#[test]
fn closes_nest_in_callbacks() {
    let world = World::new(1);
    let disks = [0; 2].map(|_| Disk::new(&world, &DiskOptions::new()));
    let told = Arc::new(Mutex::new(Vec::new()));
    let life = || {
        // Nobody writes the records but the closes, so that these call back.
        let options = options().linger(Duration::from_secs(100));
        let [first, second] = [0, 1].map(|log| open(&disks[log], &options));
        let ticket = second.append(b"second").unwrap();
        let (outer, log) = (Arc::clone(&told), Arc::clone(&first));
        first.append(b"first").unwrap().on_durable(move |durable| {
            assert!(durable.is_ok());
            let inner = Arc::clone(&outer);
            ticket.on_durable(move |durable| {
                assert!(durable.is_ok());
                let outcome = log.close().map_err(|error| error.kind());
                inner.lock().unwrap().push(outcome);
            });
            let outcome = second.close().map_err(|error| error.kind());
            outer.lock().unwrap().push(outcome);
        });
        first.close().unwrap();
    };
    world.run(life).unwrap();
    assert_eq!(*told.lock().unwrap(), [Err(ErrorKind::Closed), Ok(())]);
}

/// Of one frame: a callback, and behind it a task that awaits. They were told in the order in which they
/// had come, so that a callback that waits for what the task does waited for ever.
#[test]
fn a_task_is_woken_before_any_callback_runs() {
    let world = World::new(1);
    let latency = DiskOptions::new().latency(Duration::from_micros(200), Duration::from_micros(1));
    let disk = Disk::new(&world, &latency);
    let starved = Arc::new(AtomicBool::new(false));
    let life = || {
        let wal = open(&disk, &options().depth(1));
        let first = wal.append(b"first").unwrap();
        let writer = world.spawn("writer", move || first.wait().unwrap());
        world.sleep(Duration::from_micros(50));
        let awaited = Arc::new(AtomicBool::new(false));
        let (host, done, late) = (world.clone(), Arc::clone(&awaited), Arc::clone(&starved));
        wal.append(b"second").unwrap().on_durable(move |_| {
            let begin = host.now();
            while !done.load(Ordering::SeqCst) {
                host.sleep(Duration::from_millis(1));
                if host.now() - begin > Duration::from_secs(10) {
                    late.store(true, Ordering::SeqCst);
                    return;
                }
            }
        });
        let (host, third) = (world.clone(), wal.append(b"third").unwrap());
        let task = world.spawn("task", move || {
            host.block_on(third).unwrap();
            awaited.store(true, Ordering::SeqCst);
        });
        writer.join();
        task.join();
    };
    world.run(life).unwrap();
    assert!(!starved.load(Ordering::SeqCst), "the record was durable and its task asleep");
}

/// What a user's thread, or a callback, or a callback of a callback, may ask of a log.
#[derive(Clone)]
struct Anything {
    world: World,
    wal: Arc<Wal<Disk>>,
    /// Callbacks that were left and not called.
    owed: Arc<AtomicU32>,
    panics: Arc<AtomicU32>,
}

impl Anything {
    fn act(&self, random: &mut Random, depth: u32) {
        let Self { world, wal, .. } = self;
        let of_threads = if depth == 0 { 3 } else { 0 };
        match random.below(11 + of_threads) {
            0 | 1 => drop(wal.append(&vec![1; random.index(900)]).map(wal::Ticket::wait)),
            2 => drop(wal.append(&vec![2; random.index(3000)])),
            3..6 if depth < 3 => self.leave_callback(random, depth),
            6 => drop(wal.append(b"awaited").map(|ticket| world.block_on(ticket))),
            7 => drop(world.block_on(wal.append_async(&vec![7; random.index(4000)]))),
            8 => {
                let ticket = wal.checkpoint(wal.durable_lsn(), b"state");
                if random.one_in(2) {
                    drop(ticket.map(wal::Ticket::wait));
                }
            }
            9 => drop(wal.flush()),
            10 if random.one_in(4) => {
                drop(wal.close());
                assert!(wal.append(b"x").is_err(), "appended to a closed log");
            }
            11 => {
                let time = Duration::from_micros(random.below(200));
                drop(wal.append(b"in time").map(|ticket| ticket.wait_timeout(time)));
            }
            12 => {
                if let Ok(mut follow) = wal.follow(wal.start_mark()) {
                    let mut next = || follow.next_timeout(Duration::from_micros(500)).is_ok();
                    while next() && !random.one_in(3) {}
                }
            }
            _ => world.sleep(Duration::from_micros(random.below(500))),
        }
    }

    fn leave_callback(&self, random: &mut Random, depth: u32) {
        let Ok(ticket) = self.wal.append(&vec![3; random.index(900)]) else { return };
        self.owed.fetch_add(1, Ordering::SeqCst);
        let (inner, mut random) = (self.clone(), Random::new(random.next()));
        ticket.on_durable(move |_| {
            inner.owed.fetch_sub(1, Ordering::SeqCst);
            // The log would catch it, and nobody would hear of it.
            let acted = catch_unwind(AssertUnwindSafe(|| inner.act(&mut random, depth + 1)));
            inner.panics.fetch_add(u32::from(acted.is_err()), Ordering::SeqCst);
        });
    }
}

/// Three threads do anything, and so do their callbacks and the callbacks of these, on any disk, which may
/// die. Callbacks that waited for records, and so wrote frames and called back, were counted away twice:
/// the count of committers fell below nothing, and none was started any more. Others waited for tasks that
/// were told behind them. All of it was found by this program.
#[test]
fn callbacks_may_do_anything() {
    for seed in 0..4000 {
        let world = World::new(seed);
        let mut random = Random::new(seed);
        let disk = Disk::new(&world, &DiskOptions::any(&mut random));
        let life = || {
            let block = u32::try_from(disk.alignment().bytes()).unwrap();
            let options = Options::new()
                .block_bytes(block)
                .segment_bytes(u64::from(block) * 24)
                .frame_bytes(16 << 10)
                .pool_bytes(random.choose(&[32, 48, 128]) << 10)
                .depth(random.choose(&[1, 2, 3, 4]))
                .linger(Duration::from_micros(random.choose(&[0, 50, 2000])))
                .confirm_after(Duration::from_micros(random.choose(&[100, 3000])));
            let anything = Anything {
                world: world.clone(),
                wal: open(&disk, &options),
                owed: Arc::default(),
                panics: Arc::default(),
            };
            if random.one_in(5) {
                let fault = Fault::new(Effect::Eio).on(Verb::WriteDurable);
                disk.plant(fault.after(random.below(30)).sticky());
            }
            let users = [0; 3].map(|_| {
                let (anything, mut random) = (anything.clone(), Random::new(random.next()));
                world.spawn("user", move || {
                    for _ in 0..12 {
                        anything.act(&mut random, 0);
                    }
                })
            });
            users.into_iter().for_each(Spawned::join);
            drop(anything.wal.close());
            disk.heal();
            // A close of a log that is latched waits for nobody; the open waits for its last calls.
            drop(options.open_in(disk.clone()).unwrap());
            world.sleep(Duration::from_millis(50));
            assert_eq!(anything.owed.load(Ordering::SeqCst), 0, "callbacks that nobody called");
            assert_eq!(anything.panics.load(Ordering::SeqCst), 0, "panics in callbacks");
        };
        world.run(life).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    }
}
