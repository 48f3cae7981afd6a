//! What this machine can do for locks, what follows from that, and how a space fares on it. Feature `diagnosis`.
//!
//! Everything is tried out: nothing is called good that was not seen to work, and what could not be tried says so. What it takes
//! for that is gone when the answer is there. Looking neither creates the space, nor joins it, nor writes to it.
//!
//! ```
//! use hostlock::Space;
//!
//! # let root = tempfile::tempdir()?;
//! let diagnosis = Space::builder("myapp").root(root.path()).diagnose()?;
//! for finding in &diagnosis.findings {
//!     println!("{} {}: {}", finding.verdict, finding.name, finding.seen);
//! }
//! assert!(diagnosis.can_work(), "{}", diagnosis.summary());
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod machine;
mod place;
mod space;

use std::path::PathBuf;
use std::{fmt, io};

use nix::errno::Errno;

use crate::os::probe::{self, Scratch, Tried};
use crate::segment::open::Options;
use crate::{Backend, Error, Result, SpaceBuilder};

/// What was found. Made by [`SpaceBuilder::diagnose`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Diagnosis {
    /// Where the space is, or would be.
    pub path: PathBuf,
    /// What was looked at, in an order for reading.
    pub findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What it is about.
    pub area: Area,
    /// What was looked at: always the same words for the same thing.
    pub name: &'static str,
    /// How it fares.
    pub verdict: Verdict,
    /// What stands on it.
    pub need: Need,
    /// What was seen, with the error of the system if there was one.
    pub seen: String,
    /// What follows for whoever uses locks. Empty: nothing that anybody would notice.
    pub follows: String,
    /// What to do. Empty: nothing needs to be done, or can be.
    pub advice: String,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Area {
    /// The kernel, and what it lets this process do.
    Machine,
    /// The directory that the space lies in, or would, and its file system.
    Place,
    /// The space itself.
    Space,
}

/// How something fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It was tried, or looked at, and is as it should be.
    Ok,
    /// It is not there: the kernel does not have it, or does not let this process have it.
    Missing,
    /// It is there and not as it should be.
    Unusable,
    /// It could not be tried.
    Unknown,
}

/// What stands on something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Need {
    /// Nothing in this version.
    Nothing,
    /// Locks work without it, less well.
    Helpful,
    /// No space can be used without it.
    Essential,
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Machine => "machine",
            Self::Place => "place",
            Self::Space => "space",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Unusable => "unusable",
            Self::Unknown => "unknown",
        })
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nothing => "nothing",
            Self::Helpful => "helpful",
            Self::Essential => "essential",
        })
    }
}

impl Diagnosis {
    /// Whether nothing that is essential was found missing or unusable. What could not be tried does not count against it.
    pub fn can_work(&self) -> bool {
        self.names(Need::Essential, is_bad).is_empty()
    }

    /// The verdict on all of it, in one line.
    pub fn summary(&self) -> String {
        let broken = self.names(Need::Essential, is_bad);
        if !broken.is_empty() {
            return format!("locks cannot work here: {}", broken.join(", "));
        }
        let untried = self.names(Need::Essential, |verdict| verdict == Verdict::Unknown);
        let poorer = self.names(Need::Helpful, |verdict| verdict != Verdict::Ok);
        match (untried.is_empty(), poorer.is_empty()) {
            (true, true) => "this machine can do everything hostlock needs".into(),
            (true, false) => format!("locks work here, less well than they could: {}", poorer.join(", ")),
            (false, _) => {
                format!("nothing essential was found missing, but not all could be tried: {}", untried.join(", "))
            }
        }
    }

    fn names(&self, need: Need, verdict: impl Fn(Verdict) -> bool) -> Vec<&'static str> {
        let wanted = |finding: &&Finding| finding.need == need && verdict(finding.verdict);
        self.findings.iter().filter(wanted).map(|finding| finding.name).collect()
    }
}

fn is_bad(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Missing | Verdict::Unusable)
}

impl SpaceBuilder {
    /// Tries out what locks in this space stand on, and looks at the space if there is one. See [`diagnosis`](self).
    ///
    /// It takes some milliseconds, makes a few short-lived copies of this process, which tell nobody of their end, and a directory that is
    /// gone at once beside the space.
    ///
    /// # Errors
    /// [`Error::InvalidName`], [`Error::InvalidOption`]: there can be no such space. Everything else is a finding.
    pub fn diagnose(self) -> Result<Diagnosis> {
        let options = self.options();
        let _alone = probe::alone();
        let existing = options.could_open();
        if let Err(error @ (Error::InvalidName { .. } | Error::InvalidOption { .. })) = existing {
            return Err(error);
        }
        let place = Place::of(options, &existing)?;
        let mut findings = machine::findings(&place);
        findings.extend(place::findings(&place, options));
        findings.extend(space::findings(&place, options, &existing));
        Ok(Diagnosis { path: place.space, findings })
    }
}

/// Where to look.
struct Place {
    root: PathBuf,
    /// The nearest directory that is there.
    nearest: PathBuf,
    space: PathBuf,
    /// There is a space, sound or not.
    exists: bool,
    /// What it is made of, or would be.
    made: Backend,
    scratch: io::Result<Scratch>,
}

impl Place {
    fn of(options: &Options, existing: &Result<Option<Backend>>) -> Result<Self> {
        let root = options.root_path()?;
        let space = root.join(&options.name);
        // Only the default root is made by whoever comes first.
        let nearest = match root.parent() {
            Some(parent) if options.root.is_none() && !root.exists() => parent.to_owned(),
            _ => root.clone(),
        };
        let there = existing.as_ref().ok().copied().flatten().or_else(|| options.backend_at(&space));
        let scratch = Scratch::new(&nearest);
        let (exists, made) = (there.is_some(), there.unwrap_or_else(|| options.backend_of_new()));
        Ok(Self { root, nearest, space, exists, made, scratch })
    }

    /// Essential for whoever creates a space.
    fn to_create(&self) -> Need {
        if self.exists { Need::Helpful } else { Need::Essential }
    }

    /// Of what only a segment takes.
    fn for_a_segment(&self) -> Need {
        if self.made == Backend::Segment { Need::Essential } else { Need::Helpful }
    }

    /// Of what only lock files take.
    fn for_files(&self, need: Need) -> Need {
        if self.made == Backend::Files { need } else { Need::Nothing }
    }
}

/// A finding in the making.
struct Draft(Finding);

fn found(area: Area, name: &'static str, verdict: Verdict, seen: impl Into<String>) -> Draft {
    let (need, follows, advice) = (Need::Nothing, String::new(), String::new());
    Draft(Finding { area, name, verdict, need, seen: seen.into(), follows, advice })
}

/// What came of a probe; `works` is what was seen if it did.
fn of(area: Area, name: &'static str, tried: Tried, works: impl Into<String>) -> Draft {
    let (verdict, seen) = match tried {
        Tried::Works => (Verdict::Ok, works.into()),
        Tried::Refused(errno) => refused(errno),
        Tried::Wrong(what) => (Verdict::Unusable, what.into()),
        Tried::Untried(why) => (Verdict::Unknown, format!("not tried: {why}")),
    };
    found(area, name, verdict, seen)
}

/// Not there, or failing otherwise.
fn refused(errno: Errno) -> (Verdict, String) {
    match errno {
        Errno::ENOSYS => (Verdict::Missing, "the kernel says ENOSYS: it is too old, or a filter hides the call".into()),
        Errno::EPERM | Errno::EACCES => {
            (Verdict::Missing, format!("the kernel says {errno:?}: a filter, or a lack of rights, forbids it"))
        }
        Errno::EINVAL | Errno::EOPNOTSUPP => {
            (Verdict::Missing, format!("the kernel says {errno:?}: it has no such thing here"))
        }
        _ => (Verdict::Unusable, format!("the kernel says {errno:?} ({})", errno.desc())),
    }
}

/// An error of the system by its name.
fn why(e: &io::Error) -> String {
    e.raw_os_error().map_or_else(|| e.to_string(), |number| format!("{:?}", Errno::from_raw(number)))
}

impl Draft {
    /// What stands on it, and what follows if it is not to be had.
    fn need(mut self, need: Need, otherwise: &str) -> Self {
        self.0.need = need;
        if is_bad(self.0.verdict) {
            self.0.follows = otherwise.into();
        }
        self
    }

    /// What follows in any case.
    fn follows(mut self, what: impl Into<String>) -> Self {
        self.0.follows = what.into();
        self
    }

    /// What to do if it is not to be had.
    fn advice(mut self, what: &str) -> Self {
        if is_bad(self.0.verdict) {
            self.0.advice = what.into();
        }
        self
    }

    /// What to do if the kernel does not let us have it.
    fn advice_if_missing(self, what: &str) -> Self {
        if self.0.verdict == Verdict::Missing { self.advice(what) } else { self }
    }
}
