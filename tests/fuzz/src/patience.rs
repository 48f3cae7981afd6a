//! An end to waiting. Damage can make a lock look held by somebody who lives, and then whoever waits for it waits for its whole deadline: that
//! of names is ten seconds, and of some waits there is none. So each input runs under a token that is cancelled after a while. What is not
//! ended by that is a hang, and libFuzzer's `-timeout` reports it.

use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use hostlock::CancelToken;

/// Longer than most inputs take whose waits have deadlines; where nothing is damaged nobody waits.
const PATIENCE: Duration = Duration::from_millis(40);

static RUNNING: Mutex<Option<(CancelToken, Instant)>> = Mutex::new(None);
static WATCH: Once = Once::new();

/// Runs `act`, whose waits end when it has taken too long.
pub fn within_patience(act: impl FnOnce()) {
    WATCH.call_once(|| {
        std::thread::spawn(watch);
    });
    let token = CancelToken::new();
    *running() = Some((token.clone(), Instant::now() + PATIENCE));
    token.run(act);
    *running() = None;
}

fn running() -> std::sync::MutexGuard<'static, Option<(CancelToken, Instant)>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch() {
    loop {
        std::thread::sleep(Duration::from_millis(5));
        let due = running().as_ref().filter(|(_, end)| Instant::now() > *end).map(|(token, _)| token.clone());
        if let Some(token) = due {
            token.cancel();
        }
    }
}
