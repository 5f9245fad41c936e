//! Writes the inputs that a fuzzer begins with to `corpus/TARGET`, beside what is there.

use std::{fs, io, path::Path};
use wal_tests::fuzzing::seeds;

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for seed in seeds() {
        let folder = corpus.join(seed.target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(seed.name), seed.bytes)?;
    }
    Ok(())
}
