//! What an entry is used for, and whether it is: its kind and its meta word.

use super::format::NAME_MAX;

/// What an entry is used for. The numbers have an even number of ones, so that one flipped bit makes a kind that nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Mutex = 3,
    RwLock = 5,
    Semaphore = 6,
    Condvar = 9,
    Event = 10,
    Barrier = 12,
    Latch = 15,
    Once = 17,
    Queue = 18,
    MutexData = 20,
    RwLockData = 23,
    AutoEvent = 24,
    Fence = 27,
}

impl Kind {
    pub(crate) const ALL: [Self; 13] = [
        Self::Mutex,
        Self::RwLock,
        Self::Semaphore,
        Self::Condvar,
        Self::Event,
        Self::Barrier,
        Self::Latch,
        Self::Once,
        Self::Queue,
        Self::MutexData,
        Self::RwLockData,
        Self::AutoEvent,
        Self::Fence,
    ];

    /// The kind with this number, if this version knows it.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// As people call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mutex => "mutex",
            Self::RwLock => "read-write lock",
            Self::Semaphore => "semaphore",
            Self::Condvar => "condition variable",
            Self::Event => "event",
            Self::AutoEvent => "event that resets itself",
            Self::Fence => "fence",
            Self::Barrier => "barrier",
            Self::Latch => "latch",
            Self::Once => "once",
            Self::Queue => "queue",
            Self::MutexData => "mutex with data",
            Self::RwLockData => "read-write lock with data",
        }
    }

    /// Whether nothing is lost when the entry of an unused name of this kind is given to another.
    pub(crate) fn is_stateless(self) -> bool {
        matches!(self, Self::Mutex | Self::RwLock | Self::Semaphore | Self::Condvar)
    }
}

/// The meta word of an entry, apart from the atomic it came from. Zero: never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta(pub(crate) u64);

impl Meta {
    const USED: u8 = 1;

    pub(crate) fn used(generation: u32, kind: Kind, name_len: usize) -> Self {
        debug_assert!((1..=NAME_MAX).contains(&name_len));
        Self((generation as u64) << 32 | u64::from_be_bytes([0, 0, 0, 0, Self::USED, kind as u8, name_len as u8, 0]))
    }

    /// Nameless, since `generation`.
    pub(crate) fn unused(generation: u32) -> Self {
        Self((generation as u64) << 32)
    }

    pub(crate) fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(crate) fn is_used(self) -> bool {
        let [state, kind, len, flags] = [4, 5, 6, 7].map(|index| self.byte(index));
        state == Self::USED && kind != 0 && (1..=NAME_MAX).contains(&len.into()) && flags == 0
    }

    /// Used and unused differ in two bits at least, so one flipped bit is neither.
    pub(crate) fn is_damaged(self) -> bool {
        !self.is_used() && self.0 as u32 != 0
    }

    /// The kind's number, which a newer version may have given.
    pub(crate) fn kind(self) -> u8 {
        self.byte(5)
    }

    pub(crate) fn name_len(self) -> usize {
        self.byte(6).into()
    }

    fn byte(self, index: usize) -> u8 {
        self.0.to_be_bytes()[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meta_words_keep_what_they_are_given() {
        let meta = Meta::used(7, Kind::Mutex, 64);
        assert!(meta.is_used());
        assert_eq!((meta.generation(), meta.kind(), meta.name_len()), (7, 3, 64));
        assert!(!Meta(0).is_used());
        assert!(!Meta::unused(9).is_used());
        assert_eq!(Meta::unused(9).generation(), 9);
    }

    #[test]
    fn no_flipped_bit_makes_one_kind_of_another() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_number(kind as u8), Some(kind));
            for bit in 0..8 {
                assert_eq!(Kind::from_number(kind as u8 ^ 1 << bit), None, "{kind:?}, bit {bit}");
            }
        }
    }

    #[test]
    fn no_flipped_bit_takes_a_name_from_an_entry_or_gives_it_one() {
        for sound in [Meta::used(7, Kind::Mutex, 1), Meta::used(7, Kind::Mutex, 64), Meta::unused(7)] {
            assert!(!sound.is_damaged());
            for bit in 0..32 {
                let flipped = Meta(sound.0 ^ 1 << bit);
                // Another kind or another length: an error, and a name that does not fit its hash.
                let same = flipped.is_used() && sound.is_used();
                assert!(flipped.is_damaged() || same && (flipped.kind(), flipped.name_len()) != (3, sound.name_len()));
            }
        }
    }
}
