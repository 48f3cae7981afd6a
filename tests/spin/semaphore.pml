/* The semaphore, src/protocol/semaphore.rs and seat.rs: two permits; who wants one, who wants both, who gives the name up. Never more are out
 * than there are, tokens grow, nobody has one of a name that was given up, and nobody waits for ever. Numbers in brackets are the
 * invariants there. Process 3 wants both, and may give up unless it is -DPATIENT; process 2 gives the name up in its last turn, if it finds no permit out.
 * Not here: leases, damage, who is told of a death; a store that frees a seat is as good as a compare-and-swap where all is in one order.
 */
#if defined(CRASH) || defined(PATIENT)
#define HAS_DEADLINE(p) false
#else
#define HAS_DEADLINE(p) (p == 3)
#endif
#include "common.pml"
#define FREED(w) ((w) & 32760)
inline wake_bell() { futex_wake(woke) }
#define FIRST_GATE 16
#include "bell.pml"

/* A seat's slots are 1 to 3; in the third bit stands whether its last owner died with it. */
#define HOLDER(w) ((w) & 3)
#define ABANDONED 4
#define FRESH(w) (((w) & 7) == 0)
/* OwnerWord::past_run, draw, draw_run, first_of_run, enter_next, with runs of two. */
#define PAST_RUN(e) (((e) & 2) -> (e) : ((e) | 1) + 1)
#define IN_RUN(e) (((e) & 3) == 0)

short seat[2] = 8; /* Seat::owner */
byte has[2];       /* who was told that it has that permit, or was when it was killed; 0: nobody */
byte largest;      /* of the tokens of all acquisitions that ended */
bool given_up;     /* the entry's generation has changed */

/* FREE => HELD in a seat, [1], [4]. */
#define ENTER(at, token) seat[at] = ((token) << 3) | (seat[at] & ABANDONED) | me; mine_at[at] = seat[at]

/* The caller has it. */
inline welcome(at) {
	assert(has[at] == 0 || !IS_ALIVE(has[at]));
	assert(EPOCH(mine_at[at]) > floor);
	assert(EPOCH(mine_at[at]) != EPOCH(seat[1 - at]));
	assert(!given_up);
	has[at] = me
}

/* semaphore::release, put_back: `freed` is what is left in the seat. [6] */
inline free(at, freed) {
#ifdef BUG_RING_FIRST
	ring();
#endif
	d_step {
		assert(seat[at] == mine_at[at]);
		if :: has[at] == me -> has[at] = 0; if :: EPOCH(mine_at[at]) > largest -> largest = EPOCH(mine_at[at]) :: else fi :: else fi;
		seat[at] = freed;
		mine_at[at] = 0
	};
#if !defined(BUG_RING_FIRST) && !defined(BUG_FREED_WITHOUT_RING)
	ring()
#endif
}

/* The gate after a seat was taken [2], and the entry's generation. */
inline look_at_gate(at, expected) {
#ifndef BUG_GATE_IS_NOT_LOOKED_AT
	atomic { if :: gate == expected || (expected == 0 && FREE(gate)) :: else -> goto undo fi };
#endif
	atomic { if :: !given_up -> welcome(at); goto taken :: else fi };
undo:	free(at, FREED(mine_at[at]));
taken:	skip
}

/* Permits::try_again, try_acquire. */
inline try_one() {
	at = 0;
	if :: !tries_again -> goto draw :: else fi;
	do                                                                                 /* try_again */
	:: atomic { at < 2 ->
			if
			:: FRESH(seat[at]) && IN_RUN(EPOCH(seat[at])) -> ENTER(at, EPOCH(seat[at]) + 1)
			:: else -> goto next
			fi
		};
		look_at_gate(at, (EPOCH(mine_at[at]) | 1) << 3);
		goto tried;
next:	at++
	:: atomic { at == 2 -> break }
	od;
draw:	atomic {                                                                           /* draw */
		if
		:: FREE(gate) -> gate = PAST_RUN(EPOCH(gate) + 1) << 3; token = EPOCH(gate)
		:: FREE(gate) && turns < TURNS_OF(me) -> gate = ((EPOCH(gate) | 3) + 2) << 3; token = EPOCH(gate) - 1; tries_again = true
		:: else -> goto tried
		fi
	};
	at = 0;
	do
	:: atomic { at < 2 -> if :: FRESH(seat[at]) && EPOCH(seat[at]) < token -> ENTER(at, token) :: else -> goto another fi };   /* take */
		look_at_gate(at, 0);
		goto tried;
another: at++
	:: atomic { at == 2 -> break }
	od;
tried:	atomic { at = 0; token = 0 }
}

/* What Permits::collect looks for, with the gate in hand: seats for each of its tokens. [5], [8] */
inline look() {
	at = 0;
	do
	:: atomic { at == 2 || wanted == 0 -> break }
	:: atomic { at < 2 && wanted ->
			before = seat[at];
			if
			:: !HOLDER(before) -> ENTER(at, token)
#ifndef BUG_NOBODY_IS_JUDGED
			:: HOLDER(before) && !IS_ALIVE(HOLDER(before)) -> seat[at] = ABANDONED; ENTER(at, token)
#endif
			:: else -> at++; goto held
			fi;
			token++; wanted--; at++
		};
held:	skip
	od;
	atomic { at = 0; before = 0; found = (wanted == 0) }
}

/* backend::semaphore: acquire, at the gate. */
inline collect(count) {
	take_gate();
	if
	:: atomic { given_up -> skip }
	:: atomic { !given_up -> wanted = count; token = PAST_RUN(EPOCH(mine)) };
		d_step { mine = (PAST_RUN(token + wanted - 1) << 3) | me; gate = mine };       /* reserve */
		wait_until();
		if
		:: atomic { found ->
				if :: mine_at[0] -> welcome(0) :: else fi;
				if :: mine_at[1] -> welcome(1) :: else fi
			}
		:: else ->                                                                     /* put_back */
			if :: mine_at[0] -> d_step { seat[0] = FREED(seat[0]) | (seat[0] & ABANDONED); mine_at[0] = 0 } :: else fi;
			if :: mine_at[1] -> d_step { seat[1] = FREED(seat[1]) | (seat[1] & ABANDONED); mine_at[1] = 0 } :: else fi
		fi;
		atomic { found = false; wanted = 0; token = 0 }
	fi;
	leave_gate()
}

/* Who takes the name away has the gate, and looks at all seats then. */
inline give_up_the_name() {
	take_gate();
	atomic { if :: HOLDER(seat[0]) -> goto out :: else fi };
	atomic { if :: HOLDER(seat[1]) -> goto out :: else -> given_up = true; assert((!has[0] || !IS_ALIVE(has[0])) && (!has[1] || !IS_ALIVE(has[1]))) fi };
out:	leave_gate()
}

#define forget() turns = 0; at = 0; token = 0; wanted = 0; floor = 0; seen_rung = 0; mine = 0; before = 0; mine_at[0] = 0; mine_at[1] = 0; found = 0; late = 0; woke = 0; tries_again = 0

active [3] proctype Process() {
	byte me = _pid + 1;
	byte turns, at, token, wanted, floor, seen_rung;
	short mine, before, mine_at[2];
	bool found, late, woke, tries_again;
	{
		do
		:: turns == TURNS_OF(me) -> break
		:: atomic { turns < TURNS_OF(me) -> turns++; floor = largest };
			if
			:: me == 3 -> collect(2)
			:: me == 2 && turns == TURNS_OF(me) -> give_up_the_name()
			:: me != 3 ->
				try_one();
				if :: !mine_at[0] && !mine_at[1] -> collect(1) :: else fi
			fi;
			if :: mine_at[0] -> free(0, FREED(mine_at[0])) :: else fi;
			if :: mine_at[1] -> free(1, FREED(mine_at[1])) :: else fi
		od;
		atomic {
			has_ended[me] = true;
			if
			:: ALL_ENDED && !dead -> assert(FREE(gate) && FRESH(seat[0]) && FRESH(seat[1]) && counted == 0)
			:: else
			fi
		}
	} MORTAL
}



#ifdef CRASH
/* Who kills one, and cleans up after it or does not: segment::participants::give_back_all. */
active proctype Death() {
	bool woke;
	kill_one();
	if
	:: true
	:: dead ->
		d_step { if :: SLOT(gate) == dead -> gate = FREED(gate) :: else fi };          /* recovery::give_back */
		d_step { if :: HOLDER(seat[0]) == dead -> seat[0] = FREED(seat[0]) | ABANDONED :: else fi };   /* Seat::give_back */
		d_step { if :: HOLDER(seat[1]) == dead -> seat[1] = FREED(seat[1]) | ABANDONED :: else fi };
		ring();
		d_step { if :: record[dead] -> record[dead] = false; counted-- :: else fi }    /* Bell::uncount */
	fi
}
#endif
