/* The mutex, src/protocol/mutex.rs: exclusion, tokens that grow, and that nobody sleeps for ever on a free lock. Numbers in brackets
 * are the invariants there. Process 3 may give up at any time, 2 and 3 may have waited for long, 1 may release fairly.
 * Not here: threads, spinning, damage, leases, who is told of a death, the end of all epochs.
 */
#ifdef CRASH
#define HAS_DEADLINE(p) false
#define STARVES(p) (p == 3)
#define IS_FAIR(p) false
#else
#define HAS_DEADLINE(p) (p == 3)
#define STARVES(p) (p != 1)
#define IS_FAIR(p) (p == 1)
#endif
#include "common.pml"

#define WOKEN 128
#define STARVING 64
#define COUNT(sleepers) ((sleepers) & 63)

byte owner;      /* LockWords::owner */
byte sleepers;   /* LockWords::sleepers */
bool record[4];  /* segment::waiters: who sleeps, for whoever cleans up */
byte inside;     /* who has the lock, or had it when it was killed */
byte last;       /* the largest token so far */

#define IS_AWAITED ((record[1] && IS_ALIVE(1)) || (record[2] && IS_ALIVE(2)) || (record[3] && IS_ALIVE(3)))

/* FREE, RESERVED for who waits [7], HELD by the dead (Host::judge) [4]. */
#define IS_BARRED(seen) (may_sleep && (!counted || barred == seen))
#if defined(BUG_NOBODY_IS_JUDGED)
#define IS_DEAD(p) false
#elif defined(BUG_TAKEN_WITHOUT_PROOF)
#define IS_DEAD(p) (p != me)
#else
#define IS_DEAD(p) (!IS_ALIVE(p))
#endif
#define CAN_BE_HAD(seen) (FREE(seen) || (RESERVED(seen) && !IS_BARRED(seen)) || (HELD(seen) && IS_DEAD(SLOT(seen))))

/* A compare-and-swap from `seen`, of which it was looked that it can be had [1]. */
inline take() {
	if
	:: owner == seen ->
		assert(inside == 0 || !IS_ALIVE(inside));
		mine = NEXT_BY(seen, me);
		owner = mine;
		assert(EPOCH(mine) > last);
		inside = me;
		last = EPOCH(mine);
		seen = 0
	:: else -> seen = owner
	fi
}

/* LockWords::acquire_contended. Afterwards `mine` is 0 if it gave up. */
inline acquire_contended() {
	do
	:: atomic { CAN_BE_HAD(seen) -> take(); if :: mine -> break :: else fi }
	:: atomic { !CAN_BE_HAD(seen) && HAS_DEADLINE(me) && !late -> late = true }
	:: atomic { !CAN_BE_HAD(seen) && late && RESERVED(seen) && may_sleep && !IS_AWAITED -> may_sleep = false }
	:: atomic { !CAN_BE_HAD(seen) && late && !(RESERVED(seen) && may_sleep && !IS_AWAITED) -> break }
	:: atomic { !CAN_BE_HAD(seen) && !late ->                                          /* Host::may_sleep */
			if
			:: !counted ->                                                             /* [2], [7] */
				barred = (RESERVED(seen) && COUNT(sleepers) -> seen : 0); sleepers++; counted = true
			:: else -> goto again
			fi
		};
		record[me] = true;                                                             /* Host::enlist */
again:	if :: STARVES(me) -> sleepers = sleepers | STARVING :: true fi;                /* Host::is_starving, [7] */
#ifndef BUG_WOKEN_IS_KEPT
		sleepers = sleepers & ~WOKEN;                                                  /* [6] */
#endif
		atomic {                                                                       /* [2] */
			if
			:: owner == seen && (HELD(seen) || barred == seen)
			:: else -> seen = owner; goto looked
			fi
		};
		futex_sleep(owner, seen);
		d_step { barred = 0; seen = owner };                                           /* [5] */
looked:	skip
	od;
	atomic {
		seen = 0; barred = 0; may_sleep = true; late = false;
		if
		:: counted -> counted = false; record[me] = false                              /* Host::delist */
		:: else -> goto have
		fi
	};
	uncount();
have:	skip
}

/* LockWords::uncount, [3] */
inline uncount() {
	sleepers = (COUNT(sleepers) <= 1 -> 0 : (sleepers & ~WOKEN) - 1);
	freed = owner;
#ifndef BUG_RESERVATION_IS_LEFT
	if :: RESERVED(freed) -> unreserve() :: else fi;
#endif
	if :: FREE(freed) -> seen_sleepers = sleepers; wake_contended() :: else -> freed = 0 fi
}

/* LockWords::unreserve. `freed`: reserved before, the word now afterwards. */
inline unreserve() {
	d_step { if :: owner == freed -> owner = BY(owner, 0) :: else fi; freed = owner }
}

/* LockWords::settle, [7] */
inline settle() {
	atomic { left = COUNT(sleepers); sleepers = sleepers & ~STARVING; if :: left == 0 :: else -> goto settled fi };
	unreserve();
settled: left = 0
}

/* LockWords::reserve, [7] */
inline reserve() {
	atomic { if :: owner == freed -> owner = BY(owner, 7); freed = owner :: else -> goto reserved fi };
	settle();
reserved: skip
}

/* LockWords::wake_sleepers, [2]. `freed` is the word left behind. */
inline wake_sleepers() {
#if defined(BUG_COUNT_IS_CLEARED)
	d_step { seen_sleepers = sleepers; sleepers = 0 };
	if :: COUNT(seen_sleepers) -> futex_wake(won) :: else fi;
	seen_sleepers = 0;
#elif !defined(BUG_COUNT_BEFORE_THE_WORD_IS_FREE)
	seen_sleepers = sleepers;
#endif
	if :: seen_sleepers & STARVING -> reserve() :: else fi;
	wake_contended()
}

/* LockWords::wake_contended, [6]. */
inline wake_contended() {
	do
	:: atomic { (seen_sleepers & WOKEN) || COUNT(seen_sleepers) == 0 -> break }
	:: else ->
#ifdef BUG_RESERVED_AGAIN
		if :: (seen_sleepers & STARVING) && FREE(freed) -> reserve() :: else fi;
#endif
		atomic { if :: sleepers == seen_sleepers -> sleepers = sleepers | WOKEN :: else -> seen_sleepers = sleepers; goto changed fi };
		atomic { futex_wake(won); if :: won -> break :: else fi };
		atomic { sleepers = sleepers & ~WOKEN; seen_sleepers = sleepers };
		atomic { won = (owner == freed || HELD(owner)); freed = owner; if :: won -> break :: else fi };
changed: skip
	od;
	atomic { freed = 0; seen_sleepers = 0; won = false }
}

/* LockWords::release, release_fair */
inline release() {
	if
	:: true ->
#ifdef BUG_COUNT_BEFORE_THE_WORD_IS_FREE
		seen_sleepers = sleepers;
#endif
		d_step { assert(owner == mine); inside = 0; owner = BY(mine, 0); freed = owner; mine = 0 };
		wake_sleepers()
	:: IS_FAIR(me) && COUNT(sleepers) ->
		d_step { assert(owner == mine); inside = 0; owner = BY(mine, 7); freed = owner; mine = 0 };
		settle();
		seen_sleepers = sleepers;
		wake_contended()
	fi
}

#define forget() turns = 0; seen = 0; mine = 0; barred = 0; freed = 0; seen_sleepers = 0; left = 0; counted = 0; may_sleep = 0; late = 0; won = 0

active [3] proctype Process() {
	byte me = _pid + 1;
	byte turns, seen, mine, barred, freed, seen_sleepers, left;
	bool counted, may_sleep = true, late, won;
	{
		do
		:: turns == TURNS_OF(me) -> break
		:: else ->
			d_step { turns++; seen = owner; if :: FREE(seen) -> take() :: else fi };   /* LockWords::try_acquire */
			if :: mine :: else -> acquire_contended() fi;
			if :: mine -> release() :: else fi
		od;
		atomic {
			has_ended[me] = true;
			if
			:: ALL_ENDED && !dead -> assert(FREE(owner) && COUNT(sleepers) == 0)
			:: else
			fi
		}
	} MORTAL
}

#ifdef CRASH
/* Who kills one, and cleans up after it or does not: segment::participants::give_back_all. */
active proctype Death() {
	byte freed, seen_sleepers, left;
	bool won;
	kill_one();
	if
	:: true
	:: dead ->
		d_step { won = (SLOT(owner) == dead); if :: won -> owner = BY(owner, 0); freed = owner; inside = 0 :: else fi };   /* recovery::give_back */
		if :: won -> wake_sleepers() :: else fi;
		d_step { won = record[dead]; record[dead] = false };
		if :: won -> uncount() :: else fi
	fi
}
#endif
