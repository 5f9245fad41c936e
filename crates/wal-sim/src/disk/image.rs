//! [`Image`]: what a disk holds while nothing runs.

use super::{
    DiskOptions,
    content::{Content, Data},
};
use std::{collections::BTreeMap, fmt};

/// What a disk holds while nothing runs: after a crash, or at rest. Cheap to copy.
#[derive(Clone)]
pub struct Image {
    pub(super) files: BTreeMap<String, Content>,
    pub(super) exists: bool,
    pub(super) options: DiskOptions,
}

impl Image {
    /// The names of its files, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.files.keys().cloned().collect()
    }

    /// The bytes of file `name`.
    #[must_use]
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        let content = self.files.get(name)?;
        let mut bytes = vec![0; content.len()];
        content.read(&mut bytes, 0);
        Some(bytes)
    }

    /// Overwrites bytes of file `name` from `offset` on, which grows as needed. Answers whether there
    /// is such a file.
    pub fn write(&mut self, name: &str, offset: usize, bytes: &[u8]) -> bool {
        let Some(content) = self.files.get_mut(name) else { return false };
        content.write(&Data::new(bytes), offset, 0..bytes.len());
        true
    }

    /// Lays `mask` over the byte at `offset` of file `name`: bit rot. Answers whether there is such a
    /// byte.
    pub fn flip(&mut self, name: &str, offset: usize, mask: u8) -> bool {
        let byte = self.read(name).and_then(|bytes| bytes.get(offset).copied());
        byte.is_some_and(|byte| self.write(name, offset, &[byte ^ mask]))
    }

    /// Takes a file away. Answers whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        self.files.remove(name).is_some()
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lengths = self.files.iter().map(|(name, content)| (name, content.len()));
        f.debug_map().entries(lengths).finish()
    }
}
