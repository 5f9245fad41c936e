//! The log from outside: one file for each kind of story.

mod async_use;
mod commit;
mod failure;
mod locking;
mod reading_live;
mod space;
