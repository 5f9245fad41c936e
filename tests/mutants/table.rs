//! Every planted bug, whose mistake it was or could be, and the layer and test that must find it.

/// Where a test stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Layer {
    /// The engine's own tests.
    Unit,
    /// The public API, on memory that fails on command and on real directories.
    EndToEnd,
    /// The simulated disk: every crash, every failed call.
    Simulated,
}

impl Layer {
    pub(crate) const ALL: [Self; 3] = [Self::Unit, Self::EndToEnd, Self::Simulated];

    /// The name of the package, and of the test target in it.
    pub(crate) const fn target(self) -> (&'static str, &'static str) {
        match self {
            Self::Unit => ("wal", "wal"),
            Self::EndToEnd => ("wal-tests", "end_to_end"),
            Self::Simulated => ("wal-sim", "simulation"),
        }
    }

    pub(crate) const fn heading(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::EndToEnd => "end to end",
            Self::Simulated => "simulated",
        }
    }
}

/// A planted bug.
#[derive(Debug)]
pub(crate) struct Mutant {
    pub(crate) name: &'static str,
    pub(crate) layer: Layer,
    /// The test that must fail, by its full name.
    pub(crate) test: &'static str,
    pub(crate) story: &'static str,
}

const fn unit(name: &'static str, test: &'static str, story: &'static str) -> Mutant {
    Mutant { name, layer: Layer::Unit, test, story }
}

const fn end_to_end(name: &'static str, test: &'static str, story: &'static str) -> Mutant {
    Mutant { name, layer: Layer::EndToEnd, test, story }
}

const fn simulated(name: &'static str, test: &'static str, story: &'static str) -> Mutant {
    Mutant { name, layer: Layer::Simulated, test, story }
}

pub(crate) const MUTANTS: &[Mutant] = &[
    // Acknowledging.
    simulated(
        "acknowledged-before-durable",
        "crash_states::every_state_recovers",
        "a frame is written, not synced, and acknowledged",
    ),
    end_to_end(
        "acknowledged-out-of-order",
        "commit::nothing_is_acknowledged_behind_a_hole",
        "the mark moves to the highest completed frame",
    ),
    unit(
        "writes-under-way-forgotten",
        "commit::tests::a_frame_waits_for_the_writes_that_were_under_way_when_it_was_done",
        "a failed flush takes along what an earlier write answered Ok for",
    ),
    simulated(
        "preparer-no-neighbour",
        "neighbours::a_failed_sync_of_the_preparer_takes_no_acknowledged_record_along",
        "a failed flush of the preparer takes along what a frame answered Ok for",
    ),
    simulated(
        "shortage-counts-as-success",
        "neighbours::a_shortage_of_the_preparer_takes_no_acknowledged_record_along",
        "a flush that was refused for want of room is believed to have flushed",
    ),
    simulated(
        "confirmed-while-held",
        "neighbours::a_confirmation_waits_until_all_before_it_is_acknowledged",
        "an idle log vouches once, while it may not vouch for the last frame",
    ),
    simulated(
        "closed-while-held",
        "neighbours::a_close_waits_until_all_before_it_is_acknowledged",
        "a close is durable behind a frame that is not",
    ),
    end_to_end(
        "next-segment-too-early",
        "commit::no_frame_is_written_before_the_segment_before_is_durable",
        "a frame of the next segment overtakes",
    ),
    end_to_end(
        "baton-dropped",
        "cost::nobody_is_woken_whose_record_is_not_durable",
        "nobody seals the next frame",
    ),
    end_to_end(
        "room-not-offered",
        "async_use::a_task_without_room_waits_and_goes_on",
        "buffers come back and nobody is told",
    ),
    end_to_end(
        "woken-task-trusted",
        "waiting::a_checkpoint_waits_behind_no_future",
        "all wait behind a future that was woken and is never polled",
    ),
    end_to_end(
        "no-bound-on-passing",
        "passes::a_thread_that_waits_is_passed_so_often_and_no_more",
        "a large record waits for ever beside small ones",
    ),
    end_to_end(
        "sleeping-committer-trusted",
        "beside_callbacks::a_record_lingers_no_longer_beside_a_callback_on_a_committer",
        "a committer that sleeps without a time-out is trusted to look at its clock",
    ),
    simulated(
        "word-read-behind-the-yields",
        "device_classes::group_commit_leaves_nobody_behind_on_any_device",
        "a waiter yields, and sleeps without looking at its word again",
    ),
    end_to_end(
        "old-refusal-believed",
        "full_disk::a_try_from_before_the_checkpoint_answers_nobody_after_it",
        "a full disk's refusal outlives the checkpoint that freed room",
    ),
    end_to_end(
        "batch-without-bonds",
        "records::batches_do_not_interleave",
        "the records of a batch do not know of each other",
    ),
    end_to_end(
        "reader-past-the-mark",
        "reading_live::only_what_is_durable_is_read",
        "a live reader yields what is not durable",
    ),
    // Failing.
    end_to_end(
        "failed-sync-retried",
        "failure::a_disk_that_heals_does_not_unlatch",
        "a sync after a failed one says Ok",
    ),
    end_to_end(
        "failure-not-latched",
        "failure::the_first_failed_write_latches_every_call",
        "a failed write is acknowledged",
    ),
    end_to_end(
        "full-disk-acknowledged",
        "failure::a_full_disk_at_a_commit_latches",
        "a commit on a full disk is acknowledged",
    ),
    end_to_end(
        "latch-names-no-record",
        "latch::a_failure_that_touched_no_record_says_what_is_durable",
        "a latch calls the outcome of records unknown where there are none",
    ),
    end_to_end(
        "full-disk-latches",
        "failure::a_full_disk_met_by_the_preparer_is_harmless",
        "a disk that is full for a while ends the log",
    ),
    end_to_end(
        "reserve-not-kept",
        "input::full_disk_refuses_appends_and_harms_nothing",
        "records take the room that the checkpoint needs",
    ),
    unit(
        "short-write-ignored",
        "io::directory::tests::a_short_write_goes_on_and_a_stuck_one_is_an_error",
        "a short write counts as a whole one",
    ),
    unit(
        "second-opener-let-in",
        "io::directory::tests::the_lock_is_exclusive_here_and_through_any_path",
        "two writers on one log",
    ),
    simulated(
        "ending-not-told",
        "hang::an_open_waits_for_a_log_that_has_ended_as_long_as_it_may",
        "a program that drops its log and opens it at once is refused by itself",
    ),
    end_to_end(
        "fork-not-noticed",
        "locking::a_forked_child_can_do_nothing_to_the_log",
        "a forked child writes",
    ),
    // Segments.
    simulated(
        "name-not-synced",
        "crash_states::every_state_recovers",
        "a new slot's name is lost with its records",
    ),
    simulated(
        "zeros-not-synced",
        "crash_states::every_state_recovers",
        "a slot's zeros or length are lost, what it held before comes back",
    ),
    end_to_end(
        "pins-ignored",
        "reading_live::a_segment_that_is_being_read_is_not_reused",
        "a slot is reused under its reader",
    ),
    end_to_end(
        "links-ignored",
        "space::a_slot_that_somebody_links_to_is_replaced",
        "a slot is reused that a backup shares",
    ),
    end_to_end(
        "released-before-the-checkpoint",
        "space::a_checkpoint_that_was_not_durable_frees_nothing",
        "a slot is given away while the checkpoint that frees it is in flight",
    ),
    end_to_end(
        "start-mark-may-fall",
        "space::the_start_mark_never_falls",
        "a lower checkpoint asks for what is gone",
    ),
    end_to_end(
        "checkpoint-not-restated",
        "recovery::log_that_is_reopened_many_times_stays_the_same",
        "open has to find a checkpoint far back",
    ),
    // The bytes.
    unit(
        "record-sum-without-writer",
        "format::tests::a_frame_fits_no_other_place_log_or_writer",
        "a record of an older writer is taken for this one's",
    ),
    unit(
        "record-sum-without-place",
        "format::tests::a_frame_fits_no_other_place_log_or_writer",
        "a misdirected record is taken for the one that belongs",
    ),
    unit(
        "record-sum-not-checked",
        "format::tests::every_flipped_bit_of_a_frame_is_found",
        "damaged records are yielded",
    ),
    unit(
        "length-before-its-sum",
        "format::tests::every_flipped_bit_of_a_frame_is_found",
        "a length is believed before its checksum",
    ),
    unit(
        "chain-not-checked",
        "replay::tests::tails::each_guard_against_a_ghost_holds_alone",
        "a frame follows another one than the last",
    ),
    end_to_end(
        "mark-stuck-at-zero",
        "recovery::close_vouches_also_when_the_segment_is_full",
        "no frame vouches for those before it",
    ),
    end_to_end(
        "close-not-confirmed",
        "recovery::close_is_clean_and_a_crash_is_never_an_error",
        "nothing vouches for the last frame of a closed log",
    ),
    end_to_end(
        "idle-not-confirmed",
        "records::an_idle_log_confirms_its_last_frame_once",
        "nothing vouches for the last frame of an idle log",
    ),
    // Opening.
    end_to_end(
        "not-flushed-at-open",
        "recovery::slots_are_flushed_before_anything_is_presented",
        "records come from a cache that was never flushed",
    ),
    unit(
        "epoch-not-raised",
        "replay::tests::tails::ghosts_of_an_older_epoch_do_not_come_back",
        "the ghost: what was cut fits again",
    ),
    unit(
        "epoch-may-fall",
        "replay::tests::tails::ghosts_of_an_older_epoch_do_not_come_back",
        "an older writer's frames go on",
    ),
    end_to_end(
        "verdict-not-fixed",
        "resurrection::cut_record_does_not_come_back_after_a_transient_misread",
        "what was reported as cut comes back",
    ),
    unit(
        "zeros-end-the-log",
        "replay::tests::tails::a_lost_frame_that_a_mark_vouches_for_is_corruption",
        "a lost block in the middle is the end",
    ),
    unit(
        "damage-is-cut",
        "recovery::decide::tests::proof_outweighs_every_wish",
        "damage in the middle is cut like a torn tail",
    ),
    unit(
        "read-error-is-the-end",
        "replay::tests::damage::a_read_error_above_every_mark_is_refused_unless_the_caller_says_torn",
        "a bad sector is the end of the log",
    ),
    unit(
        "missing-segment-overlooked",
        "replay::tests::a_missing_middle_segment_is_corruption",
        "a lost segment is skipped",
    ),
    unit(
        "twins-not-settled",
        "replay::tests::two_copies_of_a_segment_are_corruption_unless_released",
        "one of two copies of a segment is taken blindly",
    ),
    unit(
        "anchor-ignored",
        "replay::tests::an_anchor_finds_what_nothing_else_can",
        "an old copy of the log opens",
    ),
    unit(
        "void-records-shown",
        "replay::tests::only_data_records_are_handed_out",
        "room that was given up is taken for a record",
    ),
    // Being slow for no reason.
    simulated(
        "cohort-left-behind",
        "device_classes::group_commit_leaves_nobody_behind_on_any_device",
        "two cohorts of writers alternate, and each disk gives half of what it could",
    ),
];
