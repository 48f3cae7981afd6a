//! One leader at a time, whatever becomes of those before: H74.

mod support;

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

use hostlock::{Error, Space};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use support::chance::Random;
use support::{act, hear, root, say, space, start, wait_until};

#[test]
fn role() {
    act(&[("campaigner", campaigner), ("nest", nest)]);
}

/// Campaigns, says with which token it leads, and does as it is told.
fn campaigner(arguments: &[String]) {
    let space = space(&arguments[0]);
    let election = space.election("e", Duration::from_millis(arguments[1].parse().unwrap())).unwrap();
    loop {
        let leadership = election.campaign().unwrap();
        say(format!("{} {:?}", leadership.token(), leadership.predecessor().map(|dead| dead.lease_lost)));
        match hear().as_str() {
            "resign" => say(leadership.resign().is_ok()),
            "leads?" => say(leadership.is_leader()),
            other => panic!("{other:?}"),
        }
    }
}

fn token(said: &str) -> u64 {
    said.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn leaders_follow_each_other() {
    let root = root();
    let path = root.path().to_str().unwrap();
    let space = space(path);
    let election = space.election("e", Duration::from_secs(60)).unwrap();
    assert_eq!(election.leader().unwrap(), None);
    let mut first = start("campaigner", &[path, "60000"]);
    let one = token(&first.hear());
    let leader = election.wait_for_change(None, Duration::from_secs(60)).unwrap().expect("a leader");
    assert_eq!((leader.pid, leader.token), (first.process.id(), one));
    assert!(matches!(leader.held, hostlock::Held::For(_)) && leader.lease.is_some(), "{leader}");
    let Err(Error::WouldBlock { holder: Some(holder), .. }) = election.try_campaign() else { panic!("two leaders") };
    assert_eq!(holder.token, one);
    assert!(matches!(election.campaign_for(Duration::from_millis(30)), Err(Error::TimedOut { .. })));
    assert!(matches!(election.wait_for_change(Some(one), Duration::from_millis(30)), Err(Error::TimedOut { .. })));
    let cancel = hostlock::CancelToken::new();
    cancel.cancel();
    let waited = cancel.run(|| election.wait_for_change(Some(one), Duration::from_secs(60)));
    assert!(matches!(waited, Err(Error::Cancelled { .. })), "{waited:?}");
    // It resigns, and nobody is told of anything.
    let second = start("campaigner", &[path, "60000"]);
    wait_until("it campaigns", || space.usage().waiting == 1);
    first.tell("resign");
    first.expect("true");
    let said = second.hear();
    let two = token(&said);
    assert!(two > one && said.ends_with(" None"), "{said}");
    // It dies, long before its lease ends.
    second.kill_without_reaping();
    let said = first.hear();
    assert!(token(&said) > two && said.ends_with(" Some(false)"), "{said}");
    first.kill();
    assert_eq!(election.leader().unwrap(), None);
    assert!(election.try_campaign().unwrap().predecessor().is_some());
}

#[test]
fn a_leader_that_was_stopped_does_not_lead_any_more() {
    let root = root();
    let path = root.path().to_str().unwrap();
    let mut first = start("campaigner", &[path, "60"]);
    let one = token(&first.hear());
    let election = space(path).election("e", Duration::from_secs(60)).unwrap();
    first.signal(Signal::SIGSTOP);
    // It is seen at once, whether or not somebody campaigns.
    assert_eq!(election.wait_for_change(Some(one), Duration::from_secs(60)).unwrap(), None);
    let leadership = election.campaign().unwrap();
    assert!(leadership.token() > one && leadership.predecessor().is_some_and(|before| before.lease_lost));
    first.signal(Signal::SIGCONT);
    first.tell("leads?");
    first.expect("false");
    assert!(leadership.is_leader());
    leadership.resign().unwrap();
    // It campaigns again, and leads with a token of its own.
    assert!(token(&first.hear()) > one);
}

/// Forks campaigners, kills whoever leads, again and again; says what came of it.
fn nest(arguments: &[String]) {
    let (path, kills): (&str, u32) = (&arguments[0], arguments[1].parse().unwrap());
    let log = std::path::Path::new(path).join("log");
    let space: Space = space(path);
    let hatch = |seed: u64| -> Pid {
        // SAFETY: the other threads of this process wait, and hold nothing.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
                let mut random = Random(seed);
                let election = space.election("e", Duration::from_millis(20 + random.draw() % 40)).unwrap();
                let mut log = std::fs::File::options().append(true).create(true).open(&log).unwrap();
                loop {
                    let leadership = election.campaign().unwrap();
                    let record = [leadership.token().to_le_bytes(), u64::from(std::process::id()).to_le_bytes()];
                    // One write, so that nobody's is torn.
                    log.write_all(record.concat().as_slice()).unwrap();
                    std::thread::sleep(Duration::from_micros(random.draw() % 2000));
                    // Now and then it is late, and is taken over from.
                    if random.draw().is_multiple_of(200) {
                        let _ = kill(nix::unistd::getpid(), Signal::SIGSTOP);
                    }
                    let _ = leadership.resign();
                }
            }
        }
    };
    let mut random = Random(u64::from(kills));
    let mut campaigners: Vec<Pid> = (0..6).map(hatch).collect();
    let election = space.election("e", Duration::from_secs(1)).unwrap();
    let mut killed = 0;
    while killed < kills {
        // At a random moment of somebody's term, or between two.
        std::thread::sleep(Duration::from_micros(random.draw() % 1500));
        let leader = election.leader().unwrap().map(|leader| Pid::from_raw(leader.pid as i32));
        let victim = leader.unwrap_or(campaigners[random.draw() as usize % campaigners.len()]);
        let Some(at) = campaigners.iter().position(|campaigner| *campaigner == victim) else { continue };
        kill(victim, Signal::SIGKILL).unwrap();
        waitpid(victim, None).unwrap();
        killed += 1;
        campaigners[at] = hatch(u64::from(killed) + 6);
        for campaigner in &campaigners {
            let _ = kill(*campaigner, Signal::SIGCONT);
        }
    }
    for campaigner in campaigners {
        kill(campaigner, Signal::SIGKILL).unwrap();
        waitpid(campaigner, None).unwrap();
    }
    // Whoever is next leads, with a larger token than all of them.
    let last = election.campaign_for(Duration::from_secs(60)).unwrap();
    let bytes = std::fs::read(&log).unwrap();
    let mut terms: HashMap<u64, u64> = HashMap::new();
    for record in bytes.chunks_exact(16) {
        let word = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().unwrap());
        assert!(word(0) < last.token(), "a token of the past is the largest");
        if let Some(other) = terms.insert(word(0), word(8)) {
            say(format!("two leaders with token {}: {other} and {}", word(0), word(8)));
            return;
        }
    }
    say(format!("{killed} kills, {} terms, each with a token of its own", terms.len()));
}

#[test]
fn no_two_leaders_have_one_token_however_many_are_killed() {
    let root = root();
    let kills = std::env::var("HOSTLOCK_KILLS").unwrap_or("500".into());
    let started = Instant::now();
    let nest = start("nest", &[root.path().to_str().unwrap(), &kills]);
    let said = nest.hear_within(Duration::from_secs(1200)).expect("it ends");
    println!("{said}, in {:.1} s", started.elapsed().as_secs_f64());
    assert!(said.starts_with(&format!("{kills} kills")), "{said}");
}
