//! write-ahead log (crate doc to come)
#![forbid(unsafe_code)]

mod commit;
mod error;
pub mod format;
mod frame_buffer;
pub mod io;
mod lsn;
mod slots;
mod sync;

pub use error::{Error, ErrorKind, Result};
pub use lsn::Lsn;
