//! What fuzzing begins with.

use std::path::PathBuf;

/// Writes the seeds into the corpus that was named on the command line, if nothing is in it yet.
pub fn sow(seeds: &[&[u8]]) {
    let corpus = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).map(PathBuf::from);
    let Some(corpus) = corpus.into_iter().find(|path| path.is_dir()) else { return };
    if std::fs::read_dir(&corpus).is_ok_and(|mut entries| entries.next().is_some()) {
        return;
    }
    for (number, seed) in seeds.iter().enumerate() {
        std::fs::write(corpus.join(format!("seed-{number}")), seed).expect("a corpus can be written");
    }
}
