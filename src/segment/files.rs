//! The header of a space's own file where its locks are lock files: how it is made, and what can be believed of it.
//!
//! | word | meaning |
//! | --- | --- |
//! | 0 | magic: `hostlckF` in the byte order of the machine that made it |
//! | 1 | layout version |
//! | 2 | how many entries there are |
//! | 3 | the mode of all files |
//! | 4 | nanoseconds since 1970 when it was made: tokens are larger |
//! | 5 | a digest of which file this is, in which directory, and on what type of file system |
//! | 6 | 1: everybody maps this file and the lock files; 0: nobody does |
//! | 7 | FNV-1a of the words before |
//! | 8 | how many entries were ever used |

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::create::place;
use super::open::{COPY, unusable_segment};
use crate::digest::fnv1a;
use crate::{Error, Result};

pub(crate) const FILE_NAME: &str = "files";
const MAGIC: u64 = u64::from_le_bytes(*b"hostlckF");
const VERSION: u64 = 2;
pub(crate) const HEADER_WORDS: usize = 16;
pub(crate) const ENTRY_WORDS: usize = 48;
/// Where the number of used entries is.
pub(crate) const USED: usize = 8;
const CHECKSUM: usize = 7;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FilesHeader {
    pub(crate) capacity: u32,
    pub(crate) mode: u32,
    pub(crate) token_base: u64,
    pub(crate) place: u64,
    /// Its words are mapped, by everybody: a word that some change by an instruction and others by a system call would lose changes.
    pub(crate) mapped: bool,
}

fn to_bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

impl FilesHeader {
    pub(crate) fn new(capacity: u32, mode: u32, token_base: u64, place: u64, mapped: bool) -> Self {
        Self { capacity, mode, token_base, place, mapped }
    }

    /// How long the file is, in words.
    pub(crate) fn words(&self) -> usize {
        HEADER_WORDS + self.capacity as usize * ENTRY_WORDS
    }

    /// How long the file is, in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.words() as u64 * 8
    }

    /// Writes it to a new file.
    pub(crate) fn write(&self, file: &File) -> io::Result<()> {
        let mut words = [0; HEADER_WORDS];
        words[..CHECKSUM].copy_from_slice(&[
            MAGIC,
            VERSION,
            u64::from(self.capacity),
            u64::from(self.mode),
            self.token_base,
            self.place,
            u64::from(self.mapped),
        ]);
        words[CHECKSUM] = fnv1a(&to_bytes(&words[..CHECKSUM]));
        file.write_all_at(&to_bytes(&words), 0)
    }

    /// Reads the header of the file at `path`, in the directory `space`, and checks all that can be checked without the right to write.
    pub(crate) fn checked(file: &File, path: &Path, space: &Path) -> Result<Self> {
        let header = Self::read(file)
            .map_err(|e| Error::system("read", path, e))?
            .map_err(|problem| unusable_segment(path, problem))?;
        match place(file, space).map_err(|e| Error::system("look at", path, e))? == header.place {
            true => Ok(header),
            false => Err(unusable_segment(path, COPY)),
        }
    }

    /// Reads it; `Ok(Err(_))`: what is wrong with it.
    fn read(file: &File) -> io::Result<std::result::Result<Self, String>> {
        const REMOVE: &str = "end all processes that use the space and remove its directory";
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Ok(Err("it is not a regular file; remove it".into()));
        }
        let mut bytes = [0; HEADER_WORDS * 8];
        match file.read_exact_at(&mut bytes, 0) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(Err(format!("it is {} bytes long, too few for its header; {REMOVE}", meta.len())));
            }
            read => read?,
        }
        let word = |at: usize| u64::from_ne_bytes(core::array::from_fn(|byte| bytes[at * 8 + byte]));
        if word(0) != MAGIC {
            return Ok(Err(format!("it does not begin as one of ours does; if it is yours, {REMOVE}")));
        }
        if word(1) != VERSION {
            return Ok(Err(format!("it has layout version {}, this program knows {VERSION}; {REMOVE}", word(1))));
        }
        let header = Self {
            capacity: word(2) as u32,
            mode: word(3) as u32,
            token_base: word(4),
            place: word(5),
            mapped: word(6) == 1,
        };
        if word(CHECKSUM) != fnv1a(&bytes[..CHECKSUM * 8]) || word(2) > 1 << 24 {
            return Ok(Err(format!("its header is damaged; {REMOVE}")));
        }
        if header.size() != meta.len() {
            let (is, says) = (meta.len(), header.size());
            return Ok(Err(format!("it is {is} bytes long and should be {says}: somebody cut it; {REMOVE}")));
        }
        Ok(Ok(header))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_goes_in_and_out_and_no_flipped_bit_is_believed() {
        let file = tempfile::tempfile().unwrap();
        let header = FilesHeader::new(7, 0o600, 1 << 60, 9, true);
        file.set_len(header.size()).unwrap();
        header.write(&file).unwrap();
        assert_eq!(FilesHeader::read(&file).unwrap(), Ok(header));
        let mut bytes = [0; 64];
        file.read_exact_at(&mut bytes, 0).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            file.write_all_at(&flipped, 0).unwrap();
            assert!(FilesHeader::read(&file).unwrap().is_err(), "bit {bit}");
        }
        file.set_len(40).unwrap();
        assert!(FilesHeader::read(&file).unwrap().is_err());
    }
}
