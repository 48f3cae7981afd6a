/* The read-write lock, src/protocol/rwlock.rs: nobody is beside a writer, and nobody waits for ever. Numbers in brackets are the
 * invariants there. Each process has a cell, by which one of its threads reads. Process 3 may give up waiting for readers.
 * Not here: how cells are found, damage, who is told of a death.
 */
#ifdef CRASH
#define HAS_DEADLINE(p) false
#else
#define HAS_DEADLINE(p) (p == 3)
#endif
#include "common.pml"
#define FREED(w) ((w) & 32760)
#define wake_bell futex_wake_all
#ifdef CRASH
#define CHANGES_SIDES(p) false
#else
#define CHANGES_SIDES(p) (p == 1)
#endif
#define FIRST_GATE 0
#include "bell.pml"

byte cell[4];      /* ReaderCell::word: how many readers */
bool reads[4];     /* who is in as a reader, or was when it was killed */
byte writes;       /* the same of the writer; 0: nobody */
byte written;      /* ReadWrite::written */

#define READS_BESIDE(p) (p != me && reads[p] && IS_ALIVE(p))

inline go_in_as_reader() {
	assert(!writes || !IS_ALIVE(writes) || writes == me);
	reads[me] = true
}

/* ReadWrite::leave, [6]. */
inline leave() {
#ifdef BUG_RING_FIRST
	ring();
	d_step { cell[me]--; reads[me] = false }
#else
	d_step { cell[me]--; reads[me] = false };
#ifndef BUG_LEAVE_WITHOUT_RING
	ring()
#endif
#endif
}

/* backend::rwlock: read_fast, read. */
inline read() {
#ifdef BUG_READER_LOOKS_FIRST
	atomic { if :: FREE(gate) :: else -> goto held fi };
	d_step { cell[me]++; go_in_as_reader() };
	goto reading;
#else
	cell[me]++;                                                                        /* ReadWrite::try_read, [1] */
	atomic { if :: FREE(gate) -> go_in_as_reader(); goto reading :: else fi };
	leave();
#endif
held:	take_gate();                                                                   /* [3] */
#ifdef BUG_COUNTED_AFTER_THE_GATE
	leave_gate();
	d_step { cell[me]++; go_in_as_reader() };
#else
	d_step { cell[me]++; go_in_as_reader() };                                          /* count_in */
	leave_gate();                                                                      /* give_up */
#endif
	goto reading;
reading: skip
}

/* What ReadWrite::drain looks for: nobody in any cell, but for `own`. [4] */
inline look() {
	at = 1; found = true;
	do
	:: atomic { at > 3 -> break }
	:: atomic { at <= 3 && (at == own || !cell[at]) -> at++ }
#ifndef BUG_NOBODY_IS_JUDGED
	:: atomic { at <= 3 && at != own && cell[at] && !IS_ALIVE(at) -> cell[at] = 0; at++ }
#endif
	:: atomic { at <= 3 && at != own && cell[at] && IS_ALIVE(at) -> found = false; break }
	od;
	at = 0
}

/* ReadWrite::drain, with the gate in hand, and what happens when it ends. */
inline drain() {
	wait_until();
	if
	:: atomic { found ->                                                               /* ReadWrite::go_in, [5] */
			assert(!writes || !IS_ALIVE(writes));
			assert(!READS_BESIDE(1) && !READS_BESIDE(2) && !READS_BESIDE(3));
			assert(EPOCH(mine) > written);
			written = EPOCH(mine);
			writes = me;
			found = false
		}
	:: else -> leave_gate()                                                            /* give_up */
	fi
}

/* backend::rwlock: the end of a write, or downgrade. */
inline end_write() {
	if
	:: d_step { writes = 0; assert(gate == mine); gate = FREED(gate); mine = 0 }
	:: CHANGES_SIDES(me) ->
		d_step { cell[me]++; writes = 0; go_in_as_reader() };
		leave_gate();
		leave()
	fi
}

#define forget() turns = 0; at = 0; own = 0; seen_rung = 0; mine = 0; found = 0; late = 0

active [3] proctype Process() {
	byte me = _pid + 1;
	byte turns, at, own, seen_rung;
	short mine;
	bool found, late;
	{
		do
		:: turns == TURNS_OF(me) -> break
		:: atomic { turns < TURNS_OF(me) -> turns++ };
			if
			:: true ->
				read();
				if
				:: true -> leave()
				:: CHANGES_SIDES(me) ->                                                /* backend::rwlock: upgrade */
#ifdef BUG_UPGRADE_QUEUES
					take_gate();
#else
					atomic { if :: FREE(gate) -> gate = NEXT_BY(gate, me); mine = gate :: else -> goto reader fi };
#endif
					own = me;
					drain();
					own = 0;
reader:				leave();
					if :: mine -> end_write() :: else fi
				fi
			:: true ->
				take_gate();                                                           /* backend::rwlock: write */
				drain();
				if :: mine -> end_write() :: else fi
			fi
		od;
		atomic {
			has_ended[me] = true;
			if
			:: ALL_ENDED && !dead -> assert(FREE(gate) && !cell[1] && !cell[2] && !cell[3] && counted == 0)
			:: else
			fi
		}
	} MORTAL
}

#ifdef CRASH
/* Who kills one, and cleans up after it or does not: segment::participants::give_back_all. */
active proctype Death() {
	kill_one();
	if
	:: true
	:: dead ->
		d_step { if :: SLOT(gate) == dead -> gate = FREED(gate) :: else fi };          /* recovery::give_back */
		cell[dead] = 0;                                                                /* ReaderCell::give_back */
		ring();
		d_step { if :: record[dead] -> record[dead] = false; counted-- :: else fi }    /* Bell::uncount */
	fi
}
#endif
