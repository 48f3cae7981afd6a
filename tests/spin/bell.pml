/* The bell, src/protocol/bell.rs, and the gate of a name that has one. Numbers in brackets are the bell's invariants. */
short gate = FIRST_GATE;   /* LockWords::owner */
byte rung;         /* Bell::rung */
byte counted;      /* Bell::sleepers */
bool record[4];    /* segment::waiters: who sleeps there, for whoever cleans up */

/* The gate is a mutex, whose own model shows that whoever waits for it gets it. So here waiting for it is one step, in which the word
 * is free, or its owner is dead. */
inline take_gate() {
	atomic { FREE(gate) || !IS_ALIVE(SLOT(gate)) -> gate = NEXT_BY(gate, me); mine = gate }
}

inline leave_gate() {
	d_step { assert(gate == mine); gate = FREED(gate); mine = 0 }
}

/* Bell::ring, after a change [1]. */
inline ring() {
	atomic { if :: counted :: else -> goto quiet fi };
#ifndef BUG_RING_WITHOUT_A_NUMBER
	rung++;                                                                            /* [2] */
#endif
	wake_bell();
quiet:	skip
}

/* Bell::wait_until. Each model's `look` says whether it is `found`; it is not if this one gave up. */
inline wait_until() {
	look();                                                                            /* Who spins looks more often. */
	if
	:: atomic { found -> skip }
	:: atomic { !found && HAS_DEADLINE(me) -> skip }                                   /* Host::may_sleep */
	:: atomic { !found -> counted++ };
		record[me] = true;                                                             /* Host::enlist */
#ifdef BUG_NO_LOOK_AFTER_COUNTING
		seen_rung = rung;
		futex_sleep(rung, seen_rung);
#endif
		do
		:: seen_rung = rung;                                                           /* [2] */
			look();
			if :: atomic { found || late -> break } :: atomic { !found && !late -> skip } fi;   /* [3] */
			futex_sleep(rung, seen_rung)
		od;
		atomic { late = false; seen_rung = 0; record[me] = false };                    /* Host::delist */
		counted--                                                                      /* [4] */
	fi
}
