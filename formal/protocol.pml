/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The protocol of the counter, as shipped, for spin. README.md says what is in it and what
 * is not; `check` runs it.
 *
 * Names are those of the source: core/src/counter/word.rs has the bits, core/src/counter/mod.rs the gets and puts,
 * core/src/counter/release.rs the attempts, core/src/percpu/ the slots, core/src/counter/lifecycle.rs the way back. One
 * atomic or d_step is one access to shared memory, with what a thread does on its own
 * around it.
 */

/* ---- what is run, from the command line ------------------------------------------- */

#ifndef SLOTS
#define SLOTS 1			/* per-CPU mode; 0 is one shared word */
#endif
#ifndef USERS
#define USERS 2			/* threads that get and put */
#endif
#ifndef VISITS
#define VISITS 1		/* gets of each of them; 255: for ever */
#endif
#ifndef HELD
#define HELD 0			/* the first so many begin with a reference */
#endif
#ifndef CLONES
#define CLONES 0		/* the first so many may take one more while they hold */
#endif
#ifndef FIRST
#define FIRST TRY		/* what the first releaser does: TRY, DRAIN or TIMED */
#endif
#ifndef SECOND
#define SECOND NONE
#endif
#ifndef TRIES
#define TRIES 1			/* attempts of each releaser; 255: the second goes on for ever */
#endif
#ifndef AFTER
#define AFTER LEAVE		/* what winners do: LEAVE, BACK (once), END (destroy), FREE */
#endif
#ifndef FAILS
#define FAILS 0			/* 1: a barrier may fail */
#endif
#ifndef SPURIOUS
#define SPURIOUS 0		/* 1: sleeps may end for no reason */
#endif
#ifndef WORK
#define WORK 0			/* 1: holders write what the winner has to see */
#endif
#ifndef INVARIANT
#define INVARIANT 1		/* 0: only consequences count, not the invariants within */
#endif
#ifndef BREAK
#define BREAK 0			/* the mutant, if any: see below */
#endif

#define NONE	0
#define TRY	1
#define DRAIN	2
#define TIMED	3

#define LEAVE	0
#define BACK	1
#define END	2
#define FREE	3

/* ---- mutants: -DBREAK=one of these ------------------------------------------------ */

#define NO_BARRIER		1	/* no membarrier between the tag and the sum */
#define BARRIER_ORDERS_NOTHING	2	/* it aborts, and flushes no store buffer */
#define BARRIER_ABORTS_NOTHING	3	/* it orders, and lets sequences go on */
#define BARRIER_MISSES_A_CPU	4
#define BARRIER_FIRST		5	/* the barrier, and then the tag */
#define BASE_EARLY		6	/* BASE back before the slots are on */
#define CLOSE_AFTER_FOLD	7
#define PUT_DOES_NOT_WAKE	8
#define UNDO_DOES_NOT_WAKE	9
#define SLEEP_WITHOUT_COMPARING	10
#define TAG_OUTSIDE		11	/* the look at the tag before the sequence decides */
#define CPU_OUTSIDE		12	/* the CPU's number is from before the sequence */
#define GET_DOES_NOT_LOOK	13	/* a get adds without a look at CLOSED */
#define SETTLE_IN_TWO_STEPS	14	/* a look, then a store */
#define PUT_LOOKS_AGAIN		15	/* the word is read again after the subtraction */
#define CLAIM_BY_LOOKING	16	/* what the fetch_and found is ignored */
#define SUM_STAYS		17	/* the way back forgets to take the sum out */
#define REINIT_STORES		18	/* reinit forgets refused gets that are not undone */
#define DEADLINE_WINS		19	/* re-opened at the deadline although nobody holds */
#define ABANDON_LEAVES_OFF	20	/* a failed barrier leaves the slots off */
#define ABANDON_BASE_FIRST	21
#define WAKE_DECIDES		22	/* a drainer that was woken does not look */
#define NO_UNDO			23	/* a refused get leaves its add */
#define ON_BEFORE_UNFOLD	24	/* slots on while the word has the sum */
#define ABANDON_LEAVES_SHUT	25	/* a failed barrier leaves the door shut */
#define DOOR_OPEN		26	/* a drainer waits with the door open */
#define FOLD_BY_STORE		27	/* the fold is a look and a store */

/* ---- what has to hold, by name ---------------------------------------------------- */

/* Always 0: they are here so that a failed assertion says its name. */
hidden byte a_count_is_not_exact, a_holder_is_left, two_winners, got_what_is_gone,
	touched_after_free, no_such_transition, released_above_zero, refused_at_zero,
	refused_without_reason, work_is_not_seen, a_store_is_pending, surplus_of_honest_users,
	sleeps_at_zero, not_as_before;

#define MUST(condition, name)	assert((condition) || name)

/* Outcomes that were reached, counted outside of the state. */
c_decl {
	static unsigned long outcomes[24];
	static const char *names[24] = {
		"released by try_release", "refused by the peek", "refused after the claim",
		"busy", "already released", "drained", "looked again after a sleep",
		"timed out", "zero won at the deadline", "sequence aborted by the barrier",
		"sequence aborted by another thread on its CPU", "sequence interrupted",
		"got through a slot", "a slot below zero", "store flushed by the barrier",
		"put through the word", "get refused by its look", "get refused and undone",
		"the undo woke the drainer", "the barrier failed", "live again after a release",
		"destroyed", "one more while draining", "word below zero while the sum is not",
	};
	static void report(void)
	{
		for (int i = 0; i < 24; i++)
			if (outcomes[i])
				printf("outcome %lu times: %s\n", outcomes[i], names[i]);
	}
};

#define SAW(n)	c_code { outcomes[n]++; }

/* ---- the counter ------------------------------------------------------------------ */

#define BASE		1
#define CLOSED		2
#define DRAINING	4
#define PERCPU		8
#define REF		16
#define FLAGS		15
#define DRAINED		(CLOSED | DRAINING)
#define DESTROYED	(CLOSED | PERCPU)

#define flags(v)	((v) & FLAGS)
#define count(v)	((v) >> 4)

/* Users that go on for ever move counts from one place to another for ever: then counts wrap,
 * as the real ones do at 60 and 64 bits, so that there are finitely many. */
#ifdef LIVE
#define RANGE		(USERS == 1 -> 2 : 4)
#define WRAPPED(v)	((((v) + RANGE * REF) & (2 * RANGE * REF - 1)) - RANGE * REF)
#define WRAPPED_SLOT(v)	((((v) + RANGE) & (2 * RANGE - 1)) - RANGE)
#undef INVARIANT
#define INVARIANT	0
#else
#define WRAPPED(v)	(v)
#define WRAPPED_SLOT(v)	(v)
#endif

short word;
bit on;				/* the tag in the counter's second word */
short slot[2];			/* memory; what is newer may be in a store buffer */

/* A CPU: its store buffer, first in first out, and who runs there. With nothing buffered
 * and no sequence it does not matter who that is, and `cur` is 0. Threads that are on
 * neither CPU run on others, whose slots stay 0. */
typedef Cpu {
	byte cur;		/* thread + 1 */
	bit sequence;		/* and it is in a restartable sequence */
	byte n;
	byte kind[3];		/* CPU + 1 of a slot; 10 + thread for a user's work */
	short value[3];
};
Cpu cpu[2];

byte asleep;			/* one bit per thread: what the futex knows */
byte worked;			/* one bit per user: it has done its work, as memory has it */

/* What the word was before a read-modify-write; used within its step alone. */
hidden short was;

/* Ghosts: the truth, which no thread of the program can read. */
byte holds;			/* references that are held */
byte undo;			/* refused gets that have added and not yet undone it */
byte wrote;			/* as `worked`, but at once */
byte reason = 255;		/* one bit per releaser: somebody held during its peek */
bit gone;			/* released, and not live again */
bit freed;
bit drained;			/* the first releaser has ended */
byte done;			/* threads that have ended */

#define BUFFERED_BY(c, i, y)	(cpu[c].n > i && cpu[c].kind[i] == y + 1)
#define NEWEST(y) (BUFFERED_BY(y, 2, y) -> cpu[y].value[2] : \
		   (BUFFERED_BY(y, 1, y) -> cpu[y].value[1] : \
		    (BUFFERED_BY(y, 0, y) -> cpu[y].value[0] : slot[y])))

/* P2, I3: at every moment, not only at the end. */
#if INVARIANT
#define EXACT MUST(count(word) + ((word & PERCPU) && flags(word) != DESTROYED -> \
		NEWEST(0) + NEWEST(1) : 0) == holds + undo, a_count_is_not_exact)
#else
#define EXACT
#endif

/* `legal` of core/src/counter/word.rs, without misuse. */
inline legal(o, n)
{
#if INVARIANT
	if
	:: flags(o) == flags(n) ->
		MUST(count(n) - count(o) <= 1 && count(n) - count(o) >= -1, no_such_transition)
	:: flags(o) != flags(n) && (
		(flags(o) == PERCPU && flags(n) == 0) ||
		(flags(o) == (DRAINED | PERCPU) && flags(n) == DRAINED) ||
		(flags(o) == CLOSED && flags(n) == PERCPU)) -> skip
	:: (flags(o) == 0 || flags(o) == DRAINED) && flags(n) == PERCPU ->
		MUST(count(o) != 0, refused_at_zero)
	:: else ->
		MUST(count(o) == count(n), no_such_transition);
		if
		:: (flags(o) == 0 || flags(o) == DRAINED) && flags(n) == CLOSED ->
			MUST(count(o) == 0, released_above_zero)
		:: (flags(o) == 0 || flags(o) == DRAINED) && flags(n) == BASE ->
			MUST(count(o) != 0, refused_at_zero)
		:: else -> MUST((flags(o) == BASE && flags(n) == 0) ||
				(flags(o) == 0 && flags(n) == DRAINED) ||
				(flags(o) == CLOSED && flags(n) == BASE) ||
				(flags(o) == CLOSED && flags(n) == DESTROYED) ||
				(flags(o) == (BASE | PERCPU) && flags(n) == PERCPU) ||
				(flags(o) == PERCPU && flags(n) == (BASE | PERCPU)) ||
				(flags(o) == PERCPU && flags(n) == (DRAINED | PERCPU)) ||
				(flags(o) == (DRAINED | PERCPU) && flags(n) == PERCPU),
				no_such_transition)
		fi
	fi
#else
	skip
#endif
}

/* ---- the processor: x86-TSO -------------------------------------------------------- */

/* The oldest store of a CPU becomes visible. */
inline flush_one(a)
{
	if
	:: cpu[a].kind[0] >= 10 -> worked = worked | (1 << (cpu[a].kind[0] - 10))
	:: else -> slot[cpu[a].kind[0] - 1] = cpu[a].value[0]
	fi;
	cpu[a].kind[0] = cpu[a].kind[1]; cpu[a].value[0] = cpu[a].value[1];
	cpu[a].kind[1] = cpu[a].kind[2]; cpu[a].value[1] = cpu[a].value[2];
	cpu[a].kind[2] = 0; cpu[a].value[2] = 0;
	cpu[a].n--;
	if
	:: cpu[a].n == 0 && !cpu[a].sequence -> cpu[a].cur = 0
	:: else
	fi
}

inline flush(b)
{
	do
	:: cpu[b].n > 0 -> flush_one(b)
	:: else -> break
	od;
	if
	:: !cpu[b].sequence -> cpu[b].cur = 0
	:: else
	fi
}

/* A locked instruction waits until the stores of its own CPU are visible. */
inline locked()
{
	if
	:: cpu[0].cur == me + 1 -> flush(0)
	:: else
	fi;
	if
	:: cpu[1].cur == me + 1 -> flush(1)
	:: else
	fi
}

inline touch()
{
	MUST(!freed, touched_after_free)
}

/* One read-modify-write of the word; every one is a locked instruction. Inside a d_step,
 * and followed there by its ghosts and EXACT. */
inline rmw(new)
{
	touch();
	locked();
	was = word;
	word = WRAPPED(new);
	legal(was, word)
}

/* A plain store by the thread on CPU c. It waits for room, see README.md. */
#define store(c, what, v)	\
	cpu[c].kind[cpu[c].n] = what; cpu[c].value[cpu[c].n] = v; cpu[c].n++

/* Stores become visible at any time, in order. */
proctype buffer(byte c)
{
end:	do
	:: d_step { cpu[c].n > 0 -> flush_one(c) }
	od
}

/* The scheduler: this thread runs on CPU c now. A context switch is a full barrier on both
 * of its CPUs, and aborts the sequence that it finds. */
inline run_on(e)
{
	if
	:: cpu[e].cur != me + 1 ->
		if
		:: cpu[e].sequence -> SAW(10)
		:: else
		fi;
		cpu[e].sequence = 0;
		flush(e);
		if
		:: cpu[1 - e].cur == me + 1 -> flush(1 - e)
		:: else
		fi;
		cpu[e].cur = me + 1
	:: else
	fi
}

#define IN_SEQUENCE(c)	(cpu[c].cur == me + 1 && cpu[c].sequence)

inline leave_sequence(f)
{
	cpu[f].sequence = 0;
	if
	:: cpu[f].n == 0 -> cpu[f].cur = 0
	:: else
	fi
}

/* ---- users -------------------------------------------------------------------------- */

#define GET	0		/* try_get */
#define MORE	1		/* get, by a holder */
#define PUT	2

/* A get or put has taken effect. */
inline happened()
{
	if
	:: op == PUT -> holds--; mine--
	:: else ->
		MUST(!gone, got_what_is_gone);
		holds++; mine++;
		reason = 255
	fi
}

/* give_back: a put, or the undo of a refused get, in the word. */
inline give_back()
{
	d_step {
		rmw(word - REF);
		if
		:: op == PUT -> holds--; mine--; SAW(15)
		:: else -> undo--; SAW(17)
		fi;
		EXACT;
		wakes = (word == DRAINED -> 1 : 0);
#if BREAK == PUT_DOES_NOT_WAKE
		wakes = (op == PUT -> 0 : wakes);
#elif BREAK == UNDO_DOES_NOT_WAKE
		wakes = (op == GET -> 0 : wakes);
#endif
		MUST(count(word) >= 0 || (word & PERCPU), surplus_of_honest_users);
		if
		:: count(word) < 0 -> SAW(23)
		:: else
		fi
	};
#if BREAK == PUT_LOOKS_AGAIN
	d_step { touch(); wakes = (word == DRAINED -> 1 : 0) };
#endif
	if
	:: d_step { wakes ->
		if
		:: op == GET && asleep -> SAW(18)
		:: else
		fi;
		/* By address, which nothing reads through: not a touch. */
		asleep = 0; wakes = 0 }
	:: !wakes
	fi
}

#define DELTA	(op == PUT -> -1 : 1)

#if BREAK == CPU_OUTSIDE
#define ROW	row
#else
#define ROW	c
#endif

/* What the CPU itself reads at a slot: its own stores first. */
#define LOADED(c, y)	(BUFFERED_BY(c, 2, y) -> cpu[c].value[2] : \
			 (BUFFERED_BY(c, 1, y) -> cpu[c].value[1] : \
			  (BUFFERED_BY(c, 0, y) -> cpu[c].value[0] : slot[y])))

proctype user(byte me)
{
	byte op, mine, visits, c;
	bit begun, wakes, more;
#if BREAK == CPU_OUTSIDE
	byte row;
#endif

	d_step {
		mine = (me < HELD -> 1 : 0);
		visits = VISITS;
		more = (me < CLONES -> 1 : 0)
	};
next:
	atomic {
		op = 0;
		if
		:: mine > 0 && more -> op = MORE; more = 0
		:: mine > 0 -> op = PUT
		:: mine == 0 && visits > 0 -> op = GET;
			if
			:: visits < 255 -> visits--
			:: else
			fi
		:: mine == 0 && visits == 0 -> goto over
		fi;
#if WORK
		/* What is done under a reference: a plain store. (Elsewhere than on the CPU
		 * of the put it would be visible before the put.) */
		if
		:: op == PUT && !(wrote & (1 << me)) ->
			if
			:: cpu[0].n < 3 -> run_on(0); store(0, 10 + me, 1)
			:: cpu[1].n < 3 -> run_on(1); store(1, 10 + me, 1)
			fi;
			wrote = wrote | (1 << me)
		:: else
		fi;
#endif
		/* The look outside of the sequence; in one word, it decides. */
		touch();
		begun = on;
#if BREAK == CPU_OUTSIDE
		if
		:: row = 0
		:: row = 1
		fi
#endif
	};
#if SLOTS
	if
	:: begun ->
		/* The sequence is announced, reads the CPU's number, and takes the look that
		 * decides. One step: only the look concerns anybody else. */
		atomic {
			if
			:: c = 0
			:: c = 1
			fi;
			run_on(c);
			cpu[c].sequence = 1;
			touch();
#if BREAK != TAG_OUTSIDE
			begun = on
#endif
		};
		/* The add, the last instruction, or an abort before it. */
		if
		:: d_step { !begun ->
			if
			:: IN_SEQUENCE(c) -> leave_sequence(c)
			:: else
			fi }
		:: begun && !IN_SEQUENCE(c)
		:: d_step { begun && IN_SEQUENCE(c) -> leave_sequence(c); SAW(11) }
		:: d_step { begun && IN_SEQUENCE(c) && cpu[c].n < 3 ->
			store(c, ROW + 1, WRAPPED_SLOT(LOADED(c, ROW) + DELTA));
			leave_sequence(c);
			if
			:: op != PUT -> SAW(12)
			:: else
			fi;
			if
			:: NEWEST(c) < 0 -> SAW(13)
			:: else
			fi;
			happened();
			EXACT;
			begun = 0; c = 0 } -> goto next
		fi;
		d_step { begun = 0; c = 0 }
	:: else
	fi;
#endif
	if
	:: op == GET ->
#if BREAK != GET_DOES_NOT_LOOK
		if
		:: d_step { word & CLOSED -> touch(); SAW(16) } -> goto next
		:: d_step { !(word & CLOSED) -> touch() }
		fi;
#endif
		d_step {
			rmw(word + REF);
			if
			:: was & CLOSED -> undo++; reason = 255; begun = 1
			:: else -> happened()
			fi;
			EXACT
		};
		if
		:: begun ->
			begun = 0;
#if BREAK == NO_UNDO
			d_step { undo--; EXACT }
#else
			give_back()
#endif
		:: else
		fi
	:: op == MORE ->
		d_step {
			rmw(word + REF);
			MUST(flags(was) != CLOSED && flags(was) != DESTROYED, got_what_is_gone);
			if
			:: was & CLOSED -> SAW(22)
			:: else
			fi;
			happened();
			EXACT
		}
	:: op == PUT -> give_back()
	fi;
	goto next;
over:
	done++
}

/* ---- releasers ---------------------------------------------------------------------- */

/* IPIs reach the CPUs one by one, and the others go on meanwhile. */
inline interrupt(g)
{
	d_step {
		if
		:: cpu[g].sequence -> SAW(9)
		:: else
		fi;
		if
		:: cpu[g].n > 0 -> SAW(14)
		:: else
		fi;
#if BREAK != BARRIER_ABORTS_NOTHING
		cpu[g].sequence = 0;
#endif
#if BREAK != BARRIER_ORDERS_NOTHING
		flush(g)
#else
		if
		:: cpu[g].n == 0 -> cpu[g].cur = 0
		:: else
		fi
#endif
	}
}

inline membarrier()
{
#if BREAK == NO_BARRIER
	skip
#elif BREAK == BARRIER_MISSES_A_CPU
	interrupt(0)
#else
	if
	:: interrupt(0); interrupt(1)
	:: interrupt(1); interrupt(0)
#if FAILS
	/* Having done a part of it or not. */
	:: failed = 1
	:: interrupt(0); failed = 1
#endif
	fi
#endif
}

inline add_slots()
{
	d_step { sum = slot[0] };
	d_step { sum = sum + slot[1] }
}

inline turn(to)
{
	d_step { touch(); locked(); on = to }
}

inline give_base_back()
{
	d_step { rmw(word | BASE); EXACT }
}

/* The word of whom nobody holds. */
#if BREAK == DOOR_OPEN
#define GONE		(kind == TRY -> 0 : DRAINING)
#else
#define GONE		(kind == TRY -> 0 : DRAINED)
#endif

/* A compare-and-swap; `seen` is what the word was. */
#define SWAPPED		(word == seen)
#define NOT_SWAPPED	d_step { word != seen -> touch(); locked(); seen = word }

#define BIT	(1 << me)

proctype releaser(byte me; byte kind)
{
	byte tries = (TRIES == 255 && me == USERS -> 1 : TRIES);
	short seen, sum;
	bit patient, late, failed, back = 1;

again:
	atomic {
		if
		:: tries == 0 -> goto over
		:: else
		fi;
		if
		:: tries < 255 -> tries--
		:: else
		fi;
#if SLOTS
		if
		:: kind == TRY ->
			/* The peek. It may find a holder, a get that is being refused, or the
			 * store of a put that is still on its way. */
			reason = (holds + undo > 0 || cpu[0].n + cpu[1].n > 0 ->
				  reason : reason & ~BIT);
			touch();
			seen = word
		:: else
		fi
#endif
	};
#if SLOTS
	if
	:: kind == TRY ->
		if
		:: !(seen & BASE) -> goto unclaimed
		:: else
		fi;
		add_slots();
		if
		:: count(WRAPPED(seen + sum * REF)) > 0 ->
			d_step {
				MUST(reason & BIT, refused_without_reason);
				reason = reason | BIT;
				SAW(1)
			};
			goto refused
		:: else -> d_step { sum = 0; seen = 0; reason = reason | BIT }
		fi
	:: else
	fi;
#endif
	/* claim */
	d_step { touch(); seen = word };
	if
	:: !(seen & BASE) -> goto unclaimed
	:: else
	fi;
	d_step { rmw(word & ~BASE); seen = was; EXACT };
#if BREAK != CLAIM_BY_LOOKING
	if
	:: !(seen & BASE) -> goto unclaimed
	:: else
	fi;
#endif
	/* shut */
#if BREAK != CLOSE_AFTER_FOLD && BREAK != DOOR_OPEN
	if
	:: kind != TRY -> d_step { rmw(word | DRAINED); EXACT }
	:: else
	fi;
#endif
	/* fold */
#if SLOTS
#if BREAK == BARRIER_FIRST
	membarrier();
	turn(0);
#else
	turn(0);
	membarrier();
#endif
	if
	:: failed ->
		/* abandon */
#if BREAK == ABANDON_BASE_FIRST
		give_base_back();
#endif
#if BREAK != ABANDON_LEAVES_OFF
		turn(1);
#endif
#if BREAK != ABANDON_LEAVES_SHUT
		d_step { rmw(word & ~DRAINED); EXACT };
#endif
#if BREAK != ABANDON_BASE_FIRST
		give_base_back();
#endif
		d_step { failed = 0; SAW(19) };
		goto refused
	:: else
	fi;
	add_slots();
	d_step { touch(); seen = word };
	do
#if BREAK == FOLD_BY_STORE
	:: d_step { rmw((seen + sum * REF) & ~PERCPU) } -> break
#else
	:: d_step { SWAPPED ->
		MUST(count(WRAPPED(word + sum * REF)) >= 0, surplus_of_honest_users);
		rmw((word + sum * REF) & ~PERCPU);
		EXACT } -> break
	:: NOT_SWAPPED
#endif
	od;
	skip;	/* spin: no jump into a d_step */
#endif
#if BREAK == CLOSE_AFTER_FOLD
	if
	:: kind != TRY -> d_step { rmw(word | DRAINED); EXACT }
	:: else
	fi;
#endif
#if BREAK == DOOR_OPEN
	if
	:: kind != TRY -> d_step { rmw(word | DRAINING); EXACT }
	:: else
	fi;
#endif
	/* drain_by; for try_release, its loop */
	d_step { touch(); seen = word; patient = (kind != TRY -> 1 : 0) };
	do
	:: seen != GONE && patient ->
		/* wait */
		if
		:: late -> patient = 0
		:: kind == TIMED && !late -> d_step { late = 1; patient = 0 }
		:: !late ->
			/* The kernel compares and queues in one step. */
			d_step {
				touch();
#if BREAK != SLEEP_WITHOUT_COMPARING
				if
				:: word == seen -> asleep = asleep | BIT
				:: else
				fi
#else
				asleep = asleep | BIT
#endif
			};
			if
			:: !(asleep & BIT) -> SAW(6)
			:: d_step { kind == TIMED && (asleep & BIT) ->
				asleep = asleep & ~BIT; late = 1 }
#if SPURIOUS
			:: d_step { (asleep & BIT) -> asleep = asleep & ~BIT }
#endif
			fi;
#if BREAK == WAKE_DECIDES
			d_step { rmw(CLOSED | (word & ~FLAGS)) };
			goto won;
#endif
		fi;
		d_step { touch(); seen = word }
	:: !(seen != GONE && patient) ->
		/* settle */
		if
#if BREAK == DEADLINE_WINS
		:: d_step { SWAPPED && (seen != GONE || late) ->
#elif SLOTS && BREAK == ON_BEFORE_UNFOLD
		:: d_step { SWAPPED && seen != GONE && !on -> touch(); locked(); on = 1 }
		:: d_step { SWAPPED && seen != GONE && on ->
#else
		:: d_step { SWAPPED && seen != GONE ->
#endif
#if SLOTS && BREAK == SUM_STAYS
			rmw((word & ~FLAGS) | PERCPU);
#elif SLOTS && BREAK == BASE_EARLY
			rmw((word & ~FLAGS) + PERCPU + BASE - sum * REF);
#elif SLOTS
			rmw((word & ~FLAGS) + PERCPU - sum * REF);
#else
			rmw((word & ~FLAGS) | BASE);
#endif
			EXACT } ->
#if SLOTS && BREAK != ON_BEFORE_UNFOLD
			turn(1);
#endif
#if SLOTS && BREAK != BASE_EARLY
			give_base_back();
#endif
			d_step {
				if
				:: kind == TRY -> SAW(2)
				:: else -> SAW(7)
				fi
			};
			goto refused
#if BREAK == SETTLE_IN_TWO_STEPS
		:: seen == GONE -> goto won
#elif BREAK == DEADLINE_WINS
		:: d_step { SWAPPED && seen == GONE && !late ->
			rmw(CLOSED); EXACT } -> goto won
#else
		:: d_step { SWAPPED && seen == GONE -> rmw(CLOSED); EXACT;
			MUST(!gone, two_winners);
			MUST(holds == 0, a_holder_is_left);
			MUST((wrote & ~worked) == 0, work_is_not_seen);
#if INVARIANT
			MUST(cpu[0].n + cpu[1].n == 0, a_store_is_pending);
#endif
			gone = 1 } -> goto won
#endif
		:: NOT_SWAPPED
		fi
	od;

unclaimed:
	atomic {
		if
		:: flags(seen) == CLOSED || flags(seen) == DESTROYED -> SAW(4)
		:: else -> SAW(3)
		fi
	};
	goto refused;

won:
	atomic {
#if BREAK == SETTLE_IN_TWO_STEPS || BREAK == WAKE_DECIDES || BREAK == DEADLINE_WINS
#if BREAK == SETTLE_IN_TWO_STEPS
		word = CLOSED;
#endif
		MUST(!gone, two_winners);
		MUST(holds == 0, a_holder_is_left);
		gone = 1;
#endif
		if
		:: kind == TRY -> SAW(0)
		:: kind != TRY && !late -> SAW(5)
		:: else -> SAW(8)
		fi
	};
#if AFTER == FREE
	freed = 1;
#elif AFTER == END
	/* leave_released */
	d_step { touch(); seen = word };
	do
	:: d_step { SWAPPED -> rmw(DESTROYED | (word & ~FLAGS)); SAW(21) } -> break
	:: NOT_SWAPPED
	od;
#elif AFTER == BACK
	if
	:: back ->
		back = 0;
		/* reinit */
#if SLOTS
		add_slots();
#endif
		d_step { touch(); seen = word };
		do
#if BREAK == REINIT_STORES
		:: d_step { touch(); locked(); gone = 0;
			word = (SLOTS -> PERCPU - sum * REF : BASE) } -> break
#else
		:: d_step { SWAPPED ->
			gone = 0;
#if SLOTS
			rmw((word & ~FLAGS) + PERCPU - sum * REF);
#else
			rmw((word & ~FLAGS) | BASE);
#endif
			EXACT } -> break
		:: NOT_SWAPPED
#endif
		od;
		skip;
#if SLOTS
		turn(1);
		give_base_back();
#endif
		SAW(20)
	:: else
	fi;
#endif
refused:
	atomic { seen = 0; sum = 0; patient = 0; late = 0; reason = reason | BIT };
	goto again;
over:
	atomic { done++;
		if
		:: me == USERS -> drained = 1
		:: else
		fi }
}

/* ---- the whole ---------------------------------------------------------------------- */

#define THREADS	(USERS + 1 + (SECOND != NONE))

init
{
	byte i;

	atomic {
		c_code { static int once; if (!once++) atexit(report); };
#if SLOTS
		/* Slots come as their last counter left them, and the word makes up for it. */
		word = BASE + PERCPU - REF;
		slot[0] = 1 + HELD;
		on = 1;
		run buffer(0);
		run buffer(1);
#else
		word = BASE + HELD * REF;
#endif
		holds = HELD;
		i = 0;
		do
		:: i < USERS -> run user(i); i++
		:: else -> break
		od;
		i = 0;
		run releaser(USERS, FIRST);
#if SECOND != NONE
		run releaser(USERS + 1, SECOND);
#endif
	};
#if VISITS == 255 || TRIES == 255
end:
#endif
	d_step {
		done == THREADS && cpu[0].n + cpu[1].n == 0 ->
		/* Either it is over, or everything is as before. */
		MUST(holds == 0 && undo == 0 && asleep == 0, not_as_before);
		if
		:: gone -> MUST((flags(word) == CLOSED || flags(word) == DESTROYED) &&
				count(word) == 0 && !on, not_as_before)
		:: else -> MUST(flags(word) == (SLOTS -> BASE | PERCPU : BASE) &&
				on == SLOTS, not_as_before);
			MUST(count(word) + (SLOTS -> slot[0] + slot[1] : 0) == 0, not_as_before)
		fi
	}
}

#ifdef LIVE
/* A drain without a timeout ends, and nobody sleeps for ever. */
ltl ends { <> drained }
ltl woken { [] ((asleep != 0) -> <> (asleep == 0)) }
#endif
