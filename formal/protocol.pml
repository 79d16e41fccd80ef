/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The protocol of the counter, as shipped, for spin. README.md says what is in it and what
 * is not; `check` runs it.
 *
 * Names are those of the source, core/src/counter/: word.rs has the bits, mod.rs the gets and puts,
 * release.rs the attempts, lifecycle.rs the way back, drain.rs the handle; core/src/percpu/ has the
 * slots. One atomic or d_step is one access to shared memory, with what a thread does on its own
 * around it.
 */

/* ---- what is run, from the command line; `check` has the defaults -------------------
 *
 * SLOTS	1: per-CPU mode; 0: one shared word
 * USERS	threads that get and put
 * VISITS	gets of each of them; 255: for ever
 * HELD		the first so many begin with a reference
 * SURPLUS	so many more put one that they do not hold
 * CLONES	the first so many may take one more while they hold
 * FIRST	what the first releaser does: TRY and so on
 * SECOND	... and the second one
 * TRIES	attempts of each releaser; 255: the second goes on for ever
 * AFTER	what winners do
 * ASKS		1: the event loop may ask without being rung
 * SOON		1: `finish` may give up waiting for a get that is being refused
 * FAILS	1: a barrier may fail
 * SPURIOUS	1: sleeps may end for no reason
 * WORK		1: holders write what the winner has to see
 * INVARIANT	0: only consequences count, not the invariants within
 *
 * and the mutant, if any: IS(NAME) is 1 after -DNAME=1, and 0 otherwise.
 */

#define IS(mutant)		IS_VALUE(mutant)
#define IS_VALUE(value)		IS_FIRST(COMMA_IF_##value)
#define COMMA_IF_1		,
#define IS_FIRST(first)		IS_SECOND(first 1, 0, 0)
#define IS_SECOND(a, b, ...)	b

#define NONE		0
#define TRY		1
#define DRAIN		2	/* sleeps until the last put */
#define TIMED		3	/* or until its time is up */
#define BEGIN		4	/* a drain by a handle: an event loop, and a watcher that rings */
#define BEGIN_TIMED	5
#define CANCEL		6	/* another thread cancels the first one's, at any time */

#define LEAVE	0
#define BACK	1	/* once */
#define END	2	/* destroy */
#define FREE	3

/* ---- what has to hold, by name ---------------------------------------------------- */

/* Always 0: they are here so that a failed assertion says its name. */
hidden byte a_count_is_not_exact, a_holder_is_left, two_winners, got_what_is_gone,
	touched_after_free, no_such_transition, released_above_zero, refused_at_zero,
	refused_without_reason, work_is_not_seen, a_store_is_pending, surplus_of_honest_users,
	not_as_before;

#define MUST(condition, name)	assert((condition) || name)
#define WHEN(condition, what)	if :: condition -> what :: else fi

/* Outcomes that were reached, counted outside of the state. */
c_decl {
	static const char *names[] = {
		"released by try_release", "refused by the peek", "refused after the claim",
		"busy", "already released", "drained", "looked again after a sleep",
		"timed out", "zero won at the deadline", "sequence aborted by the barrier",
		"sequence aborted by another thread on its CPU", "sequence interrupted",
		"got through a slot", "a slot below zero", "store flushed by the barrier",
		"put through the word", "get refused by its look", "get refused and undone",
		"the undo woke a sleeper", "the barrier failed", "live again after a release",
		"destroyed", "one more while draining", "word below zero while the sum is not",
		"mended in a fold", "mended in the word", "asked too early",
		"the event loop was too late", "cancelled", "cancelled after the last put",
	};
	static unsigned long outcomes[sizeof(names) / sizeof(*names)];
	static void report(void)
	{
		for (int i = 0; i < sizeof(names) / sizeof(*names); i++)
			if (outcomes[i])
				printf("outcome %lu times: %s\n", outcomes[i], names[i]);
	}
};

#define SAW(n)	c_code { outcomes[n]++; }

/* ---- the counter ------------------------------------------------------------------ */

#define BASE		1
#define OPEN		2
#define DRAINING	4
#define PERCPU		8
#define REF		16
#define FLAGS		15
#define LIVE_FLAGS	(BASE | OPEN)
#define RELEASED	0
#define DESTROYED	PERCPU
#if IS(DRAIN_LEAVES_OPEN)
#define DRAINED		(OPEN | DRAINING)
#else
#define DRAINED		DRAINING
#endif

#define flags(v)	((v) & FLAGS)
#define count(v)	((v) >> 4)
#define is_gone(v)	(flags(v) == RELEASED || flags(v) == DESTROYED)

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

/* The handle of a drain that was begun. */
bit under_way;			/* the drain is under way, and nobody is ending it */
bit readable;			/* the descriptor, to a loop that is told once */
bit rung, time_up;		/* why; time may also be up before the watcher says so */
bit stop, ended;		/* the watcher */

/* What the word was before a read-modify-write; used within its step alone. */
hidden short was;

/* Ghosts: the truth, which no thread of the program can read. */
short holds;			/* references that are held, less surplus puts */
byte undo;			/* refused gets that have added and not yet undone it */
byte wrote;			/* as `worked`, but at once */
byte reason = 255;		/* one bit per releaser: somebody held during its peek */
bit gone;			/* released, and not live again */
bit freed;
bit cancelled;
bit drained;			/* the first releaser has ended */
byte done;			/* threads that have ended */

/* What CPU c reads at slot y: its own stores first. */
#define BUFFERED(c, i, y)	(cpu[c].n > i && cpu[c].kind[i] == y + 1)
#define LOADED(c, y)	(BUFFERED(c, 2, y) -> cpu[c].value[2] : \
			 (BUFFERED(c, 1, y) -> cpu[c].value[1] : \
			  (BUFFERED(c, 0, y) -> cpu[c].value[0] : slot[y])))

/* P2, I3: at every moment, not only at the end. */
#if INVARIANT
#define EXACT MUST(count(word) + ((word & PERCPU) && flags(word) != DESTROYED -> \
		LOADED(0, 0) + LOADED(1, 1) : 0) == holds + undo, a_count_is_not_exact)
#else
#define EXACT
#endif

/* `legal` of core/src/counter/word.rs, without misuse: from `was` to `word`. */
#define MOVED(from, to)	(flags(was) == (from) && flags(word) == (to))
inline legal()
{
#if INVARIANT
	if
	/* Sums of slots come and go, and surplus is mended. */
	:: MOVED(OPEN | PERCPU, OPEN) || MOVED(DRAINING | PERCPU, DRAINING) ||
	   MOVED(RELEASED, OPEN | PERCPU) || (SURPLUS && MOVED(OPEN | PERCPU, OPEN | PERCPU))
	:: MOVED(DRAINING, OPEN | PERCPU)
	:: MOVED(OPEN, OPEN | PERCPU) -> MUST(count(was) != 0, refused_at_zero)
	:: flags(was) == flags(word) && !(SURPLUS && flags(was) == (OPEN | PERCPU)) ->
		MUST(count(word) - count(was) <= 1 && count(word) - count(was) >= -1,
		     no_such_transition)
	:: else ->
		MUST(count(was) == count(word), no_such_transition);
		if
		:: MOVED(OPEN, RELEASED) || MOVED(DRAINING, RELEASED) ->
			MUST(count(was) == 0, released_above_zero)
		:: MOVED(OPEN, LIVE_FLAGS) -> MUST(count(was) != 0, refused_at_zero)
		:: else -> MUST(MOVED(LIVE_FLAGS, OPEN) || MOVED(OPEN, DRAINING) ||
				MOVED(DRAINING, LIVE_FLAGS) ||
				MOVED(RELEASED, LIVE_FLAGS) || MOVED(RELEASED, DESTROYED) ||
				MOVED(LIVE_FLAGS | PERCPU, OPEN | PERCPU) ||
				MOVED(OPEN | PERCPU, LIVE_FLAGS | PERCPU) ||
				MOVED(OPEN | PERCPU, DRAINING | PERCPU) ||
				MOVED(DRAINING | PERCPU, OPEN | PERCPU), no_such_transition)
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
	WHEN(cpu[a].n == 0 && !cpu[a].sequence, cpu[a].cur = 0)
}

inline flush(b)
{
	do
	:: cpu[b].n > 0 -> flush_one(b)
	:: else -> break
	od;
	WHEN(!cpu[b].sequence, cpu[b].cur = 0)
}

/* A locked instruction waits until the stores of its own CPU are visible. */
inline locked()
{
	WHEN(cpu[0].cur == me + 1, flush(0));
	WHEN(cpu[1].cur == me + 1, flush(1))
}

#define touch()	MUST(!freed, touched_after_free)

/* One read-modify-write of the word; every one is a locked instruction. The last in a
 * d_step, after its ghosts. */
inline rmw(new)
{
	touch();
	locked();
	was = word;
	word = WRAPPED(new);
	legal();
	EXACT
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
		WHEN(cpu[e].sequence, SAW(10));
		cpu[e].sequence = 0;
		flush(e);
		WHEN(cpu[1 - e].cur == me + 1, flush(1 - e));
		cpu[e].cur = me + 1
	:: else
	fi
}

#define IN_SEQUENCE(c)	(cpu[c].cur == me + 1 && cpu[c].sequence)

inline leave_sequence(f)
{
	cpu[f].sequence = 0;
	WHEN(cpu[f].n == 0, cpu[f].cur = 0)
}

/* ---- sleep and wake ------------------------------------------------------------------ */

#define BIT	(1 << me)

/* By address, which nothing reads through: not a touch. */
#define wake_all	asleep = 0

/* The kernel compares and queues in one step. */
inline sleep(timed, late)
{
	d_step {
		touch();
		WHEN(word == seen || IS(SLEEP_WITHOUT_COMPARING), asleep = asleep | BIT)
	};
	if
	:: !(asleep & BIT) -> SAW(6)
	:: d_step { timed && (asleep & BIT) -> asleep = asleep & ~BIT; late = 1 }
	:: d_step { SPURIOUS && (asleep & BIT) -> asleep = asleep & ~BIT }
	fi
}

/* ---- users -------------------------------------------------------------------------- */

#define GET	0		/* try_get */
#define MORE	1		/* get, by a holder */
#define PUT	2

/* A get or put takes effect. */
inline happens()
{
	if
	:: op == PUT -> holds--; mine--
	:: else ->
		MUST(!gone, got_what_is_gone);
		holds++; mine++;
		reason = 255
	fi
}

/* put_in_word: a put, or the undo of a refused get. */
inline put_in_word()
{
	d_step {
		if
		:: op == PUT -> happens(); SAW(15)
		:: else -> undo--; SAW(17)
		fi;
		rmw(word - (op == GET && IS(NO_UNDO) -> 0 : REF));
		wakes = (word == DRAINED && !(op == PUT && IS(PUT_DOES_NOT_WAKE)) &&
			 !(op == GET && IS(UNDO_DOES_NOT_WAKE)) -> 1 : 0);
		begun = (count(word) < 0 && (!(word & PERCPU) || is_gone(word)) -> 1 : 0);
		MUST(!begun || SURPLUS, surplus_of_honest_users);
		WHEN(count(word) < 0, SAW(23))
	};
#if IS(PUT_LOOKS_AGAIN)
	d_step { touch(); wakes = (word == DRAINED -> 1 : 0) };
#endif
#if SURPLUS
	/* put_slow */
	if
	:: d_step { begun -> begun = 0; holds++; SAW(25);
		rmw(word + REF);
		wakes = (word == DRAINED && !IS(MEND_DOES_NOT_WAKE) -> 1 : 0) }
	:: else
	fi;
#endif
	if
	:: d_step { wakes -> WHEN(op == GET && asleep, SAW(18)); wake_all; wakes = 0 }
	:: !wakes
	fi
}

proctype user(byte me)
{
	byte op, mine, visits, c, row;
	bit begun, wakes, more;

	d_step {
		mine = (me < HELD + SURPLUS -> 1 : 0);
		visits = VISITS;
		more = (me < CLONES -> 1 : 0)
	};
next:
	atomic {
		op = 0;
		if
		:: mine > 0 && more -> op = MORE; more = 0
		:: mine > 0 -> op = PUT
		:: mine == 0 && visits > 0 -> op = GET; WHEN(visits < 255, visits--)
		:: mine == 0 && visits == 0 -> goto over
		fi;
#if WORK
		/* What is done under a reference: a plain store. (Elsewhere than on the CPU
		 * of the put it would be visible before the put.) */
		if
		:: op == PUT && !(wrote & BIT) ->
			if
			:: cpu[0].n < 3 -> run_on(0); store(0, 10 + me, 1)
			:: cpu[1].n < 3 -> run_on(1); store(1, 10 + me, 1)
			fi;
			wrote = wrote | BIT
		:: else
		fi;
#endif
		/* The look outside of the sequence; in one word, it decides. */
		touch();
		begun = on;
#if IS(CPU_OUTSIDE)
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
			row = (IS(CPU_OUTSIDE) -> row : c);
			begun = (IS(TAG_OUTSIDE) -> begun : on)
		};
		/* The add, the last instruction, or an abort before it. */
		if
		:: d_step { !begun -> WHEN(IN_SEQUENCE(c), leave_sequence(c)) }
		:: begun && !IN_SEQUENCE(c)
		:: d_step { begun && IN_SEQUENCE(c) -> leave_sequence(c); SAW(11) }
		:: d_step { begun && IN_SEQUENCE(c) && cpu[c].n < 3 ->
			store(c, row + 1, WRAPPED_SLOT(LOADED(c, row) + (op == PUT -> -1 : 1)));
			leave_sequence(c);
			WHEN(op != PUT, SAW(12));
			WHEN(LOADED(c, c) < 0, SAW(13));
			happens();
			EXACT;
			begun = 0; c = 0; row = 0 } -> goto next
		fi;
		d_step { begun = 0; c = 0; row = 0 }
	:: else
	fi;
#endif
	if
	:: op == GET ->
		if
		:: d_step { !(word & OPEN) && !IS(GET_DOES_NOT_LOOK) -> touch(); SAW(16) } -> goto next
		:: d_step { (word & OPEN) || IS(GET_DOES_NOT_LOOK) -> touch() }
		fi;
		d_step {
			if
			:: word & OPEN -> happens()
			:: else -> undo++; reason = 255; begun = 1
			fi;
			rmw(word + REF)
		};
		if
		:: begun ->
			begun = 0;
			put_in_word()
		:: else
		fi
	:: op == MORE ->
		d_step {
			MUST(!is_gone(word), got_what_is_gone);
			WHEN(!(word & OPEN), SAW(22));
			happens();
			rmw(word + REF)
		}
	:: op == PUT -> put_in_word()
	fi;
	goto next;
over:
	done++
}

/* ---- the watcher of a drain that was begun -------------------------------------------- */

/* Decides nothing (D1): it rings. It looks from when the counter is closed. */
proctype watcher(byte me; bit timed)
{
	short seen;
	bit had;

	do
	:: d_step { touch(); seen = word };
		if
		:: stop -> break
		:: else
		fi;
		if
		:: d_step { seen == DRAINED -> had = rung; rung = 1 };
			WHEN(!had, readable = 1)
		:: else
		fi;
		if
		:: timed -> time_up = 1; rung = 0; readable = 1; break
		:: !time_up -> sleep(timed, time_up)
		fi
	od;
	ended = 1
}

/* Its end, by whoever has ended the drain (D3). */
inline end_watcher()
{
	if
	:: begun ->
		stop = 1;
#if IS(NO_JOIN)
		wake_all;
#elif IS(END_WAKES_ONCE)
		wake_all; ended;
#else
		do
		:: ended -> break
		:: else -> wake_all
		od;
#endif
		begun = 0
	:: else
	fi
}

/* ---- releasers ---------------------------------------------------------------------- */

/* IPIs reach the CPUs one by one, and the others go on meanwhile. */
inline interrupt(g)
{
	d_step {
		WHEN(cpu[g].sequence, SAW(9));
		WHEN(cpu[g].n > 0, SAW(14));
		WHEN(!IS(BARRIER_ABORTS_NOTHING), cpu[g].sequence = 0);
		WHEN(!IS(BARRIER_ORDERS_NOTHING), flush(g));
		WHEN(!cpu[g].sequence && cpu[g].n == 0, cpu[g].cur = 0)
	}
}

inline membarrier()
{
#if IS(NO_BARRIER)
	skip
#elif IS(BARRIER_MISSES_A_CPU)
	interrupt(0)
#else
	if
	:: interrupt(0); interrupt(1)
	:: interrupt(1); interrupt(0)
	/* Having done a part of it or not. */
	:: d_step { FAILS -> failed = 1; SAW(19) }
	:: FAILS -> interrupt(0); failed = 1
	fi
#endif
}

#define add_slots()	d_step { sum = slot[0] }; d_step { sum = sum + slot[1] }

#define turn(to)	d_step { touch(); locked(); on = to }

/* The slots on, and BASE last. */
inline open(to)
{
#if SLOTS
	turn(to);
	d_step { rmw(word | BASE) }
#else
	skip
#endif
}

#define CLOSING	(IS(DRAIN_LEAVES_OPEN) -> DRAINING : OPEN | DRAINING)

/* Closes the counter, or undoes that. */
#define close(too)	WHEN(kind != TRY && (too), d_step { rmw(word ^ CLOSING) })

/* `unfolded`, on the way back of an attempt and of a reinit: what the word becomes before `open`. */
#define OPENED	((word & ~FLAGS) + (SLOTS -> OPEN | PERCPU : LIVE_FLAGS) + \
		 (SLOTS && IS(BASE_EARLY) -> BASE : 0) - \
		 (IS(SUM_STAYS) -> 0 : slot[0] + slot[1]) * REF)

/* Whether an attempt succeeds: nobody holds a reference. Zero wins, but against a cancel. */
#define WINS	(word == (kind == TRY -> OPEN : DRAINED) && (look || !IS(DEADLINE_WINS)) && \
		 (kind != CANCEL || IS(CANCEL_LEAVES_RELEASED)))

#define BEGUN	(kind == BEGIN || kind == BEGIN_TIMED)

/* What `finish` does when it does not succeed at once. If the watcher has rung, gets are being
 * refused: it waits for them (D2), and then looks once more. */
#define FIRST_LOOK	0
#define WAITING		1
#define LAST_LOOK	2
#define HAS_RUNG	(rung && !IS(FINISH_DOES_NOT_WAIT))

/* A compare-and-swap; `seen` is what the word was. */
#define SWAPPED		(word == seen)
#define NOT_SWAPPED	d_step { word != seen -> touch(); locked(); seen = word }

/* The fold. */
#define TOTAL		(word + sum * REF)
#define MISSING		(count(WRAPPED(TOTAL)) < 0 && !IS(FOLD_DOES_NOT_MEND))
#define MEND		MUST(SURPLUS, surplus_of_honest_users); holds = 0; SAW(24)

/* What the step that releases, and its winner, may rely on. */
inline win()
{
	MUST(!gone, two_winners);
	MUST(holds == 0, a_holder_is_left);
	MUST((wrote & ~worked) == 0, work_is_not_seen);
	MUST(!INVARIANT || cpu[0].n + cpu[1].n == 0, a_store_is_pending);
	gone = 1
}

proctype releaser(byte me; byte kind)
{
	byte tries = (TRIES == 255 && me == USERS -> 1 : TRIES);
	short seen, sum;
	byte stage;
	bit look, late, failed, begun, back = 1;

again:
	atomic {
		if
		:: tries == 0 -> goto over
		:: else -> WHEN(tries < 255, tries--)
		fi
	};
#if SLOTS
	if
	/* The peek. It may find a holder, a get that is being refused, or the store of a put that
	 * is still on its way. */
	:: d_step { kind == TRY -> touch(); seen = word;
		WHEN(holds + undo <= 0 && cpu[0].n + cpu[1].n == 0, reason = reason & ~BIT) };
		WHEN(!(seen & BASE), goto unclaimed);
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
	WHEN(kind == CANCEL, goto take);
	/* claim */
	d_step { touch(); seen = word };
	WHEN(!(seen & BASE), goto unclaimed);
	d_step { seen = word; rmw(word & ~BASE) };
	WHEN(!(seen & BASE) && !IS(CLAIM_BY_LOOKING), goto unclaimed);
	close(!IS(CLOSE_AFTER_FOLD));
	/* fold */
#if SLOTS
#if IS(BARRIER_FIRST)
	membarrier();
	turn(0);
#else
	turn(0);
	membarrier();
#endif
	WHEN(failed, goto not_folded);
	add_slots();
	d_step { touch(); seen = word };
	do
#if IS(FOLD_BY_STORE)
	:: d_step { rmw((seen + sum * REF) & ~PERCPU) } -> break
#else
	:: d_step { SWAPPED && !MISSING -> rmw(TOTAL & ~PERCPU) } -> break
	/* Somebody has put too often. */
	:: d_step { SWAPPED && MISSING && !(word & OPEN) -> MEND; rmw(flags(word) & ~PERCPU) } -> break
	:: d_step { SWAPPED && MISSING && (word & OPEN) -> MEND; failed = 1;
		rmw(flags(word) - sum * REF) } -> break
	:: NOT_SWAPPED
#endif
	od;
	if
	:: failed ->
not_folded:
		WHEN(IS(ABANDON_BASE_FIRST), d_step { rmw(word | BASE) });
		close(!IS(ABANDON_LEAVES_CLOSED));
		open(!IS(ABANDON_LEAVES_OFF));
		failed = 0;
		goto refused
	:: else
	fi;
#endif
#if IS(CLOSE_AFTER_FOLD)
	close(1);
#endif
	look = (kind != TRY -> 1 : 0);
	if
	:: BEGUN ->
		under_way = 1;
		atomic {
			begun = 1; stop = 0; ended = 0; readable = 0; rung = 0; time_up = 0;
			WHEN(!IS(BEGIN_DOES_NOT_TELL), run watcher(USERS + 2, kind == BEGIN_TIMED))
		};
asks:		/* The event loop asks when it is rung, or learns that another thread has ended it. */
		if
		:: d_step { readable -> readable = 0 }
		:: !under_way
		:: ASKS
		fi;
take:		if
		:: under_way && IS(TAKE_BY_LOOKING) -> under_way = 0
		:: d_step { under_way && !IS(TAKE_BY_LOOKING) -> under_way = 0 }
		:: !under_way -> begun = 0; goto refused
		fi;
		d_step { begun = 1; stage = FIRST_LOOK; look = (kind != CANCEL -> 1 : 0) }
	:: else
	fi;
	/* finish_when_drained, and `end` */
	do
	:: WINS && IS(SETTLE_IN_TWO_STEPS) -> goto won
	:: d_step { WINS && !IS(SETTLE_IN_TWO_STEPS) -> win(); rmw(RELEASED) } -> goto won
	:: d_step { !WINS && look -> touch(); seen = word };
		if
		:: kind == TIMED -> d_step { late = 1; look = 0 }
		:: BEGUN && stage == FIRST_LOOK && HAS_RUNG -> stage = WAITING
		:: BEGUN && stage == WAITING && (SOON || time_up) ->
			readable = 0; rung = 0; stage = LAST_LOOK
		:: BEGUN && (stage == LAST_LOOK || (stage == FIRST_LOOK && !HAS_RUNG)) ->
			if
			:: !time_up -> under_way = 1; SAW(26); goto asks
			:: kind == BEGIN_TIMED -> d_step { time_up = 1; look = 0 }
			fi
		:: (!BEGUN || (stage == WAITING && !time_up)) && !late -> sleep(kind == TIMED, late);
#if IS(WAKE_DECIDES)
			d_step { rmw(RELEASED | (word & ~FLAGS)) };
			goto won
#endif
		fi
	:: d_step { !WINS && !look && !on && IS(ON_BEFORE_UNFOLD) -> on = 1 }
	:: d_step { !WINS && !look && (on || !IS(ON_BEFORE_UNFOLD)) ->
		MUST(count(word) != 0 || kind == CANCEL || !INVARIANT, refused_at_zero);
		WHEN(word == DRAINED && kind == CANCEL, SAW(29));
		rmw(OPENED) } -> break
	od;
	open(1);
	d_step {
		if
		:: kind == TRY -> SAW(2)
		:: kind == CANCEL -> cancelled = 1; SAW(28)
		:: BEGUN -> SAW(27)
		:: else -> SAW(7)
		fi
	};
	goto refused;

unclaimed:
	if
	:: is_gone(seen) -> SAW(4)
	:: else -> SAW(3)
	fi;
	goto refused;

won:
	atomic {
		WHEN(IS(SETTLE_IN_TWO_STEPS), word = RELEASED);
		WHEN(IS(SETTLE_IN_TWO_STEPS) || IS(WAKE_DECIDES), win());
		if
		:: kind == TRY -> SAW(0)
		:: kind == CANCEL -> cancelled = 1
		:: late -> SAW(8)
		:: else -> SAW(5)
		fi
	};
#if AFTER == BACK
	/* reinit */
	if
	:: back ->
		back = 0;
		d_step { gone = 0;
#if IS(REINIT_STORES)
			touch(); locked(); word = LIVE_FLAGS };
#else
			rmw(OPENED) };
#endif
		open(1);
		SAW(20);
		goto refused
	:: else
	fi;
#endif
	end_watcher();
#if AFTER == FREE
	freed = 1;
#elif AFTER == END
	d_step { rmw(DESTROYED | (word & ~FLAGS)); SAW(21) };
#endif
refused:
	end_watcher();
	atomic { seen = 0; sum = 0; look = 0; stage = 0; late = 0; reason = reason | BIT };
	goto again;
over:
	atomic { done++; WHEN(me == USERS, drained = 1) }
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
		word = LIVE_FLAGS + PERCPU - REF;
		slot[0] = 1 + HELD;
		on = 1;
		run buffer(0);
		run buffer(1);
#else
		word = LIVE_FLAGS + HELD * REF;
#endif
		holds = HELD;
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
		MUST(undo == 0 && asleep == 0 && !(cancelled && gone), not_as_before);
		if
		:: gone -> MUST(is_gone(word) && count(word) == 0 && holds == 0 && !on, not_as_before)
		:: else -> MUST(flags(word) == LIVE_FLAGS + SLOTS * PERCPU && on == SLOTS,
				not_as_before);
			MUST(count(word) + slot[0] + slot[1] == holds &&
			     (holds == 0 || SURPLUS), not_as_before)
		fi
	}
}

#ifdef LIVE
/* A drain without a timeout ends, and nobody sleeps for ever. */
ltl ends { <> drained }
ltl woken { [] ((asleep != 0) -> <> (asleep == 0)) }
#endif
