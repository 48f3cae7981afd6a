//! What all guards have in common, for whoever does the same with each of them.

use hostlock::{
    Abandoned, Error, FenceGuard, Leadership, LeaseGuard, MutexDataGuard, MutexGuard, OwnedMutexGuard,
    OwnedRwLockReadGuard, OwnedRwLockWriteGuard, OwnedSemaphorePermit, ReentrantMutexGuard, Result, RwLockReadGuard,
    RwLockWriteDataGuard, RwLockWriteGuard, SemaphorePermit,
};

use super::set::Row;

pub trait Guard: Sized {
    fn token(&self) -> u64;
    /// Whose death, or lost lease, it was told of.
    fn told(&self) -> Option<Abandoned>;
    fn is_held(&self) -> bool;
    fn unlock(self) -> Result<()>;
    fn unlock_fair(self) -> Result<()> {
        self.unlock()
    }
    /// Ends it as a death would; `None`, and as ever, where there is no such thing.
    fn abandon(self) -> (Result<()>, bool) {
        (self.unlock(), false)
    }
}

macro_rules! guard {
    (common $guard:ty) => {
        fn token(&self) -> u64 {
            <$guard>::token(self)
        }
        fn is_held(&self) -> bool {
            <$guard>::is_held(self)
        }
        fn unlock(self) -> Result<()> {
            <$guard>::unlock(self)
        }
    };
    (tells $guard:ty) => {
        guard!(common $guard);
        fn told(&self) -> Option<Abandoned> {
            self.abandoned().cloned()
        }
    };
    (abandons $guard:ty) => {
        fn abandon(self) -> (Result<()>, bool) {
            (<$guard>::abandon(self), true)
        }
    };
    (fair $guard:ty) => {
        fn unlock_fair(self) -> Result<()> {
            <$guard>::unlock_fair(self)
        }
    };
    ($($guard:ty: $($has:ident)*;)*) => {
        $(impl Guard for $guard { $(guard!($has $guard);)* })*
    };
}

guard! {
    MutexGuard<'_>: tells abandons fair;
    OwnedMutexGuard: tells abandons fair;
    RwLockWriteGuard<'_>: tells abandons fair;
    OwnedRwLockWriteGuard: tells abandons fair;
    RwLockReadGuard<'_>: tells;
    OwnedRwLockReadGuard: tells;
    SemaphorePermit<'_>: tells abandons;
    OwnedSemaphorePermit: tells abandons;
    ReentrantMutexGuard<'_>: tells;
    LeaseGuard: tells abandons;
}

impl Guard for Leadership {
    fn token(&self) -> u64 {
        Leadership::token(self)
    }

    fn told(&self) -> Option<Abandoned> {
        self.predecessor().cloned()
    }

    fn is_held(&self) -> bool {
        self.is_leader()
    }

    fn unlock(self) -> Result<()> {
        self.resign()
    }
}

impl Guard for FenceGuard<'_> {
    fn token(&self) -> u64 {
        FenceGuard::token(self)
    }

    fn told(&self) -> Option<Abandoned> {
        self.abandoned().cloned()
    }

    fn is_held(&self) -> bool {
        FenceGuard::is_held(self)
    }

    fn unlock(self) -> Result<()> {
        let (held, token) = (self.is_held(), self.token());
        drop(self);
        if held { Ok(()) } else { Err(Error::Lost { name: "fence".into(), token }) }
    }
}

/// A guard of data, which does not itself say what it was told.
pub struct Told<G>(pub G, pub Option<Abandoned>);

macro_rules! of_data {
    ($($guard:ty;)*) => {
        $(impl Guard for Told<$guard> {
            fn token(&self) -> u64 {
                self.0.token()
            }

            fn told(&self) -> Option<Abandoned> {
                self.1.clone()
            }

            fn is_held(&self) -> bool {
                self.0.is_held()
            }

            fn unlock(self) -> Result<()> {
                self.0.unlock()
            }
        })*
    };
}

of_data! {
    MutexDataGuard<'_, Row>;
    RwLockWriteDataGuard<'_, Row>;
}
