/* What the models share: owner words, death, the futex.
 *
 * Interleavings only: every atomic operation of the Rust text is one step, all in one order (the orderings are for the models in
 * src/protocol/models). A loop that only repeats a compare-and-swap until it succeeds is one step, as attempts that fail change
 * nothing. Three processes take finitely many turns, so nobody is starved by one who barges in: who waits for ever waits for nothing.
 *
 *   plain         sleeps end by a wake only, and nobody dies: a lost wake-up is an end state in which somebody is still asleep
 *   -DCRASH       one process is killed, at any step or never; sleeps may end by themselves (in the Rust text all are bounded)
 *   -DVICTIM=n    which one: 1 if it is not said
 *   -DUNBOUNDED   with it: they do not
 *   -DBUG_...     a bug put in on purpose
 *   -DTURNS=n     how many turns processes 1, 2 and 3 take, a digit for each
 */
#ifndef TURNS
#define TURNS 211
#endif
#ifndef VICTIM
#define VICTIM 1
#endif
#define TURNS_OF(p) ((p) == 1 -> TURNS / 100 : ((p) == 2 -> (TURNS / 10) % 10 : TURNS % 10))


/* protocol::word: epoch and slot. Slots are 1 to 3; 0 is nobody, 7 is reserved. */
#define EPOCH(w) ((w) >> 3)
#define SLOT(w) ((w) & 7)
#define FREE(w) (SLOT(w) == 0)
#define RESERVED(w) (SLOT(w) == 7)
#define HELD(w) (SLOT(w) != 0 && SLOT(w) != 7)
#define BY(w, slot) (((w) & 248) | (slot))
#define NEXT_BY(w, slot) (((EPOCH(w) + 1) << 3) | (slot))

/* Who was killed, which the oracle (Host::judge) knows at once; 0: nobody. */
byte dead;
/* Who has taken all its turns, or was killed. */
bool has_ended[4];
/* Who sleeps on the futex. */
bool asleep[4];

#define ALL_ENDED (has_ended[1] && has_ended[2] && has_ended[3])
#define IS_ALIVE(p) (dead != p)

#if defined(CRASH) && !defined(UNBOUNDED)
#define SLEEP_ENDS true
#else
#define SLEEP_ENDS false
#endif

/* Host::sleep, Host::doze. The kernel compares and queues in one step. Who has a deadline may find that it is `late`. */
inline futex_sleep(word, expected) {
	asleep[me] = (word == expected);
	if
	:: !asleep[me]
	:: SLEEP_ENDS && asleep[me] -> asleep[me] = false
	:: HAS_DEADLINE(me) && asleep[me] -> d_step { asleep[me] = false; late = true }
	fi
}

/* Host::wake: one of them, whichever; whether there was one. */
inline futex_wake(woke) {
	atomic {
		if
		:: asleep[1] -> asleep[1] = false; woke = true
		:: asleep[2] -> asleep[2] = false; woke = true
		:: asleep[3] -> asleep[3] = false; woke = true
		:: else -> woke = false
		fi
	}
}

inline futex_wake_all() {
	d_step { asleep[1] = false; asleep[2] = false; asleep[3] = false }
}

/* SIGKILL, at any step of any process, or never. Its words stay as they are; the kernel ends its sleep. */
inline kill_one() {
	if
	:: d_step { VICTIM && !has_ended[VICTIM] -> dead = VICTIM; has_ended[VICTIM] = true; asleep[VICTIM] = false }
	:: ALL_ENDED
	fi
}

/* A process ends when it is killed, wherever it is. */
#ifdef CRASH
#define MORTAL unless { atomic { dead == me -> forget() } }
#else
#define MORTAL
#endif

#ifdef CRASH
/* Everybody who lives ends its turns, whatever the one who was killed left. With weak fairness (pan -a -f). */
ltl all_end { <> ALL_ENDED }
#endif
