//! What several processes acquired and who died of them, and whether each was told what it had to be.

use std::sync::atomic::Ordering::SeqCst;

use super::control::{Control, SHARED};

/// An acquisition that somebody lived to tell of.
#[derive(Clone, Copy, Debug)]
pub struct Acquired {
    pub token: u64,
    /// The token of the death that it was told of; 0: none.
    pub told: u64,
    /// Its token is another's: that of the last one who wrote.
    pub shared: bool,
}

/// All that became of one lock.
#[derive(Debug, Default)]
pub struct Story {
    /// The last token before it begins.
    pub before: u64,
    /// Tokens of acquisitions that ended by death, or by a lease that ran out, and that the next owner has to be told of.
    pub deaths: Vec<u64>,
    pub acquired: Vec<Acquired>,
    /// Nobody was killed in the middle of something.
    pub all_lived: bool,
}

impl Story {
    /// Adds what a process told of itself.
    pub fn hear(&mut self, control: &Control) {
        assert_eq!(control.crowded.load(SeqCst), 0, "two who exclude each other were inside");
        let (token, told) = (control.token.load(SeqCst), control.told.load(SeqCst));
        if token != 0 {
            self.acquired.push(Acquired { token, told, shared: control.how.load(SeqCst) == SHARED });
        }
    }

    /// Adds what a process told of itself before it died with that.
    pub fn hear_of_death(&mut self, control: &Control) {
        let token = control.token.load(SeqCst);
        if token != 0 {
            self.deaths.push(token);
        }
    }

    pub fn add(&mut self, token: u64, told: Option<u64>) {
        self.acquired.push(Acquired { token, told: told.unwrap_or(0), shared: false });
    }

    /// Nobody has the token of another, and of each death the next owner is told and nobody else. A reader may be told as well.
    pub fn judge(&mut self) {
        self.acquired.sort_by_key(|acquired| (acquired.token, acquired.shared));
        self.deaths.sort_unstable();
        self.deaths.dedup();
        let alone: Vec<_> = self.acquired.iter().filter(|acquired| !acquired.shared).collect();
        assert!(alone.windows(2).all(|two| two[0].token < two[1].token), "two with one token: {self:?}");
        let mut over = self.before;
        for acquired in alone {
            assert!(acquired.token > self.before, "a token of before: {self:?}");
            // What somebody released since tells nobody any more.
            let death = self.deaths.iter().rfind(|death| **death < acquired.token && **death > over);
            let expected = death.copied().unwrap_or(0);
            assert_eq!(
                acquired.told, expected,
                "token {} is told of a death (0: none), and expected; {self:?}",
                acquired.token
            );
            if !self.deaths.contains(&acquired.token) {
                over = acquired.token;
            }
        }
        for reader in self.acquired.iter().filter(|acquired| acquired.shared && acquired.told != 0) {
            assert!(self.deaths.contains(&reader.told), "a reader is told of a death that was none: {self:?}");
        }
    }

    /// Besides: where each acquisition takes the next token, none is missing, but those of the dead who could not tell.
    pub fn judge_in_a_row(&mut self) {
        self.judge();
        let last = self.acquired.last().expect("survivors acquired").token;
        for token in self.before + 1..=last {
            let is_known = self.deaths.contains(&token) || self.acquired.iter().any(|acquired| acquired.token == token);
            assert!(is_known, "nobody had token {token}: {self:?}");
        }
    }

    /// Of several permits, whose tokens grow each for itself: nobody is told twice, or of a death that was none. Whoever gets several that dead
    /// ones had is told of one of them.
    pub fn judge_permits(&self) {
        let tokens = |of: &dyn Fn(&Acquired) -> u64| {
            let mut tokens: Vec<_> = self.acquired.iter().map(of).filter(|token| *token != 0).collect();
            tokens.sort_unstable();
            tokens
        };
        let (had, told) = (tokens(&|acquired| acquired.token), tokens(&|acquired| acquired.told));
        assert!(had.windows(2).all(|two| two[0] != two[1]), "two with one token: {self:?}");
        assert!(told.windows(2).all(|two| two[0] != two[1]), "told twice: {self:?}");
        assert!(told.iter().all(|told| self.deaths.contains(told)), "told of a death that was none: {self:?}");
        assert_eq!(told.is_empty(), self.deaths.is_empty(), "told of a death or not, and was there one: {self:?}");
    }
}
