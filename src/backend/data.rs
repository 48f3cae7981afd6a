//! Plain data in the extents: copied in and out word by word, so that nobody ever has a reference to what others may change.
//!
//! It begins with a line that says what it is: a digest of the type's name, its size and alignment, and as much of the name as fits, from its end.
//! The value follows, padded with zeros to whole words. It is read and written by whoever holds the lock that guards it, and has seen the
//! generation; what a scribbling peer stores meanwhile is a value.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use bytemuck::{AnyBitPattern, NoUninit};

use super::lock::SharedLock;
use crate::digest::fnv1a;
use crate::segment::extents::DATA;
use crate::segment::format::{Entry, LINE_WORDS, Line, load_printable, store_text};
use crate::{Error, Result};

/// Words of a type's name that are kept.
const NAME_WORDS: usize = LINE_WORDS - 2;

/// How many words a value of that type takes.
pub(crate) const fn words<T>() -> usize {
    size_of::<T>().div_ceil(8)
}

/// A type, as it is compared.
fn identity<T: 'static>() -> [u64; 2] {
    [fnv1a(std::any::type_name::<T>().as_bytes()), size_of::<T>() as u64 | (align_of::<T>() as u64) << 32]
}

/// The line that says what follows.
pub(crate) fn header<T: 'static>() -> [u64; LINE_WORDS] {
    let name = std::any::type_name::<T>();
    let mut start = name.len().saturating_sub(NAME_WORDS * 8);
    while !name.is_char_boundary(start) {
        start += 1;
    }
    let text: [AtomicU64; NAME_WORDS] = Default::default();
    store_text(&text, &name.as_bytes()[start..]);
    let [digest, size] = identity::<T>();
    core::array::from_fn(|word| match word {
        0 => digest,
        1 => size,
        _ => text[word - 2].load(Relaxed),
    })
}

/// A value as words.
pub(crate) fn to_words<T: NoUninit>(value: &T) -> impl Iterator<Item = u64> {
    bytemuck::bytes_of(value).chunks(8).map(|bytes| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_ne_bytes(word)
    })
}

/// Reads a value.
pub(crate) fn load<'a, T: AnyBitPattern + NoUninit>(words: impl Iterator<Item = &'a AtomicU64>) -> T {
    let mut value = T::zeroed();
    for (bytes, word) in bytemuck::bytes_of_mut(&mut value).chunks_mut(8).zip(words) {
        // Relaxed: under the lock that the caller acquired with Acquire.
        let loaded = word.load(Relaxed).to_ne_bytes();
        bytes.copy_from_slice(&loaded[..bytes.len()]);
    }
    value
}

/// Writes a value.
pub(crate) fn store<'a, T: NoUninit>(value: &T, words: impl Iterator<Item = &'a AtomicU64>) {
    for (word, value) in words.zip(to_words(value)) {
        // Relaxed: the caller releases its lock with Release.
        word.store(value, Relaxed);
    }
}

impl SharedLock {
    /// The words of the name's data behind the header, if it is of this type. For whoever holds the lock, or looks at the generation then.
    pub(super) fn data<T: 'static>(&self, entry: &Entry) -> Result<&[Line]> {
        let segment = &self.space.segment;
        let lines = match segment.extent(entry, DATA)? {
            Some(extent) => &segment.lines[extent.first_line() as usize..][..extent.lines() as usize],
            None => &[],
        };
        let Some((first, data)) = lines.split_first() else {
            return Err(Error::damaged(&segment.path, format!("\"{}\" has lost its data", self.spec.name)));
        };
        let [digest, size] = identity::<T>();
        if [first.words[0].load(Relaxed), first.words[1].load(Relaxed)] == [digest, size] {
            return Ok(data);
        }
        let text: [AtomicU64; NAME_WORDS] =
            core::array::from_fn(|word| AtomicU64::new(first.words[word + 2].load(Relaxed)));
        let is = first.words[1].load(Relaxed);
        Err(Error::WrongType {
            name: self.spec.name.clone(),
            is: format!("{} ({} bytes, aligned to {})", load_printable(&text), is as u32, is >> 32),
            wanted: format!(
                "{} ({} bytes, aligned to {})",
                std::any::type_name::<T>(),
                size_of::<T>(),
                align_of::<T>()
            ),
        })
    }

    /// Whether the name's data is of this type, for whoever opens it.
    pub(crate) fn check_type<T: 'static>(&self) -> Result<()> {
        loop {
            let place = self.find()?;
            let checked = self.data::<T>(self.entry(place.entry)).map(|_| ());
            if self.is_still(place) {
                return checked;
            }
        }
    }

    /// The value that the lock guards, for whoever holds it.
    pub(crate) fn load<T: AnyBitPattern + NoUninit>(&self, entry: u32) -> Result<T> {
        let lines = self.data::<T>(self.entry(entry))?;
        Ok(load(lines.iter().flat_map(|line| &line.words)))
    }

    /// Writes the value that the lock guards, for whoever holds it exclusively.
    pub(crate) fn store<T: NoUninit + 'static>(&self, entry: u32, value: &T) -> Result<()> {
        let lines = self.data::<T>(self.entry(entry))?;
        store(value, lines.iter().flat_map(|line| &line.words));
        Ok(())
    }
}
