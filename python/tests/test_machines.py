"""The package against models, under steps that hypothesis chooses.

Every answer and every exception is compared, and after each step what the objects say of
themselves. A drain or an unload that has to wait does so in a thread beside, and has to answer
in the very step that ends its wait.

MODULE_REF_PROFILE=long tries fifty times as much; unshrunk shows the first failure as it is.
"""

import concurrent.futures
import contextlib
import errno
import itertools
import os
import pathlib
import shutil
import subprocess
import time
import typing

import module_ref as mr
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

PROFILE = os.environ.get("MODULE_REF_PROFILE", "short")
if PROFILE not in ("short", "long", "unshrunk"):
    raise ValueError(f"MODULE_REF_PROFILE is {PROFILE}; it can be short, long or unshrunk")
SETTINGS = settings(
    max_examples=4000 if PROFILE == "long" else 80,
    stateful_step_count=50,
    phases=[Phase.generate] if PROFILE == "unshrunk" else [Phase.generate, Phase.shrink],
    # Other processes may have the CPU.
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

# How long an answer may take that has to come.
PATIENCE = 10

names = st.sampled_from("abc")
short = st.sampled_from([0, 0.0, 0.0005])
allowed = sorted(os.sched_getaffinity(0))


class Raises(typing.NamedTuple):
    """Instead of an answer."""

    kind: type
    errno: typing.Optional[int] = None
    cause: typing.Optional[Exception] = None


def refused(number, cause=None):
    """The OSError of an errno value, of the subclass that Python has for it."""
    return Raises(type(OSError(number, "")), number, cause)


RELEASED = Raises(mr.Released)
MISUSE = Raises(mr.MisuseError)


def check(expected, call):
    """Calls, and compares."""
    if not isinstance(expected, Raises):
        answer = call()
        assert type(answer) is type(expected)
        assert answer == expected
        return
    with pytest.raises(expected.kind) as raised:
        call()
    assert type(raised.value) is expected.kind
    assert raised.value.__cause__ is expected.cause
    if expected.errno is not None:
        assert raised.value.errno == expected.errno


class Machine(RuleBasedStateMachine):
    """With a thread beside, which waits, or does a step of its own."""

    def __init__(self):
        super().__init__()
        self.beside = concurrent.futures.ThreadPoolExecutor(1)
        self.waiting = None

    def there(self, beside, call):
        """What `call` gives, done here or, if nobody waits there, beside."""
        if beside and self.waiting is None:
            return self.beside.submit(call).result(PATIENCE)
        return call()

    def wait(self, call, until):
        """Leaves `call` waiting, which it does once `until` is true."""
        self.waiting = self.beside.submit(call)
        began = time.monotonic()
        while not until():
            assert not self.waiting.done(), f"it does not wait: {self.waiting.result()}"
            assert time.monotonic() - began < PATIENCE
            time.sleep(0)

    def waited(self):
        """The answer of what has waited."""
        answer = self.waiting.result(PATIENCE)
        self.waiting = None
        return answer

    def run_on(self, cpu):
        os.sched_setaffinity(0, {allowed[cpu % len(allowed)]})

    @invariant()
    def still_waiting(self):
        assert self.waiting is None or not self.waiting.done(), "it has ended too early"

    def teardown(self):
        try:
            self.finish()
        finally:
            os.sched_setaffinity(0, allowed)
            self.beside.shutdown(wait=False)


# ---- the counter -----------------------------------------------------------------


class Counter(Machine):
    holds = Bundle("holds")

    @initialize(target=holds, per_cpu=st.booleans())
    def begin(self, per_cpu):
        self.ref = mr.ModuleRef(per_cpu=per_cpu)
        self.mode = self.ref.mode
        assert per_cpu or self.mode == "atomic"
        # "live", "draining" or "released"
        self.life = "live"
        self.held = 0
        self.depth = {}
        return self.hold()

    def put_one(self):
        """In the model; whether there was one."""
        if self.held == 0:
            return False
        self.held -= 1
        return True

    def after_put(self):
        if self.life == "draining" and self.held == 0:
            assert self.waited() is True
            self.life = "released"

    @rule(beside=st.booleans())
    def try_get(self, beside):
        live = self.life == "live"
        assert self.there(beside, self.ref.try_get) is live
        self.held += live

    @rule(beside=st.booleans())
    def get(self, beside):
        if self.life == "released":
            check(MISUSE, lambda: self.there(beside, self.ref.get))
        else:
            check(None, lambda: self.there(beside, self.ref.get))
            self.held += 1

    @rule(beside=st.booleans())
    def put(self, beside):
        expected = None if self.put_one() else MISUSE
        check(expected, lambda: self.there(beside, self.ref.put))
        self.after_put()

    @precondition(lambda self: self.held)
    @rule()
    def put_all(self):
        while self.held:
            self.put(False)

    @precondition(lambda self: not self.held)
    @rule(beside=st.booleans())
    def put_too_many(self, beside):
        self.put(beside)

    def hold(self):
        hold = self.ref.hold()
        self.depth[hold] = 0
        return hold

    another_hold = rule(target=holds)(hold)

    @rule(hold=holds, beside=st.booleans())
    def enter(self, hold, beside):
        if self.life != "live":
            check(RELEASED, lambda: self.there(beside, hold.__enter__))
            return
        assert self.there(beside, hold.__enter__) is self.ref
        self.depth[hold] += 1
        self.held += 1

    @rule(hold=holds, beside=st.booleans(), exception=st.booleans())
    def leave(self, hold, beside, exception):
        expected = MISUSE
        if self.depth[hold]:
            self.depth[hold] -= 1
            # A put too many may have taken its reference.
            expected = None if self.put_one() else MISUSE
        how = (KeyError, KeyError(), None) if exception else (None, None, None)
        check(expected, lambda: self.there(beside, lambda: hold.__exit__(*how)))
        self.after_put()

    def release(self):
        """What releasing has to answer, and its effect."""
        if self.life == "live":
            if self.held == 0:
                self.life = "released"
            return self.life == "released"
        return refused(errno.EBUSY if self.life == "draining" else errno.EALREADY)

    @rule(beside=st.booleans())
    def try_release(self, beside):
        check(self.release(), lambda: self.there(beside, self.ref.try_release))

    @rule(beside=st.booleans(), timeout=short)
    def drain(self, beside, timeout):
        check(self.release(), lambda: self.there(beside, lambda: self.ref.drain(timeout)))

    @precondition(lambda self: self.life == "live" and self.held and self.waiting is None)
    @rule(timeout=st.sampled_from([None, 1e300]))
    def drain_and_wait(self, timeout):
        def door_is_shut():
            if self.ref.try_get():
                self.ref.put()
                return False
            return True

        self.life = "draining"
        self.wait(lambda: self.ref.drain(timeout), door_is_shut)

    @rule(cpu=st.integers(0, 3), timeout=st.sampled_from([-1, float("nan"), -0.0001]))
    def aside(self, cpu, timeout):
        self.run_on(cpu)
        check(Raises(ValueError), lambda: self.ref.drain(timeout=timeout))

    @rule(beside=st.booleans())
    def reinit(self, beside):
        expected = None if self.life == "released" else refused(errno.EBUSY)
        check(expected, lambda: self.there(beside, self.ref.reinit))
        if expected is None:
            self.life = "live"

    @invariant()
    def as_the_model(self):
        if not hasattr(self, "ref"):
            return
        count = -1 if self.life == "released" else self.held
        assert self.ref.count == count
        assert self.ref.released is (self.life == "released")
        assert self.ref.mode == self.mode
        assert repr(self.ref) == f"<module_ref.ModuleRef count={count} mode={self.mode}>"

    def finish(self):
        if not hasattr(self, "ref"):
            return
        while self.put_one():
            self.ref.put()
        self.after_put()
        if self.life == "live":
            assert self.ref.try_release() is True, "something is left over"


def test_counter():
    run_state_machine_as_test(Counter, settings=SETTINGS)


# ---- the host --------------------------------------------------------------------

# What stands in the templates for the name that users know their provider by. Each case has its
# own, so that none is bound to what a failed case has left in memory.
ANY_CASE = b"case-00000000"
CASE_NUMBERS = itertools.count(1)

SOURCE = """
#ifdef USER
int provided(void);
#else
int provided(void) { return 0; }
#endif
#ifdef INIT
int init_module(void) { return INIT; }
#endif
#ifdef EXIT
void cleanup_module(void) {}
#endif
int answer(void) { return ANSWER + provided(); }
"""

# What there may be in a file, and the flags that it is compiled with.
KINDS = {
    "hooks": ["-DINIT=0", "-DEXIT"],
    "plain": [],
    "permanent": ["-DINIT=0"],
    "failing": ["-DINIT=-5", "-DEXIT"],
    "provider": ["-DINIT=0", "-DEXIT", f"-Wl,-soname,lib{ANY_CASE.decode()}.so"],
    "user": ["-DINIT=0", "-DEXIT", "-DUSER"],
    "cut": None,
    "text": None,
    "missing": None,
}
# What a file alone is refused with.
BROKEN = {"cut": errno.ENOEXEC, "text": errno.ENOEXEC, "missing": errno.ENOENT}


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """The content of a file, by its kind and the answer that it gives."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, as cc")
    directory = tmp_path_factory.mktemp("templates")
    contents = {("text", answer): b"no object at all" for answer in (0, 1)}
    for kind, answer in itertools.product(KINDS, (0, 1)):
        if KINDS[kind] is None:
            continue
        path = directory / f"{kind}-{answer}.so"
        command = [compiler, "-shared", "-fPIC", "-w", "-x", "c", "-", "-o", path]
        command += [f"-DANSWER={answer}", *KINDS[kind]]
        if kind == "user":
            command += ["-x", "none", "-Wl,--no-as-needed", directory / "provider-0.so"]
        subprocess.run(command, input=SOURCE, text=True, check=True, timeout=60)
        contents[kind, answer] = path.read_bytes()
    for answer in (0, 1):
        whole = contents["hooks", answer]
        contents["cut", answer] = whole[: len(whole) // 2]
    return contents


class Load:
    """One load, in the model."""

    def __init__(self, name, kind, answer, path, mode):
        self.name, self.kind, self.answer, self.path, self.mode = name, kind, answer, path, mode
        self.state = "live"
        # In the "table", left to its holders ("zombie"), waited for after its replacement
        # ("old"), or "gone".
        self.at = "table"
        self.taken = 0
        # What it depends on.
        self.uses = []
        self.module = None


class HeldModule:
    """What Module.hold() returns, in the model."""

    def __init__(self, load, hold):
        self.load, self.hold = load, hold
        self.depth = 0
        self.lib = None


class TheHost(Machine):
    modules = Bundle("modules")
    holds = Bundle("holds")
    pointers = Bundle("pointers")

    slots = st.sampled_from([0, 1, 2])

    def __init__(self, contents, directory):
        super().__init__()
        self.contents = contents
        self.case = f"case-{next(CASE_NUMBERS):08}"
        self.directory = directory / self.case
        self.directory.mkdir()
        self.host = mr.Host()
        self.loads, self.zombies, self.all_holds = [], [], []
        self.handles = {}
        self.tainted, self.last = False, None
        self.written = itertools.count()
        self.files = {}
        for slot, kind in enumerate(["hooks", "provider", "user"]):
            self.put_file(slot, kind)
        self.events, self.expected = [], []
        self.raising = None
        self.host.on_event(self.listen, priority=1)
        self.host.on_event(self.maybe_refuse)
        # The load that is waited for.
        self.going = None

    # Callbacks of the host.

    def listen(self, event, module):
        assert module.state == event
        self.events.append((event, module.name))

    def maybe_refuse(self, event, module):
        if event == "coming" and self.raising is not None:
            raise self.raising

    # The model.

    def path(self, slot):
        return self.directory / f"{self.case}-{slot}.so"

    @initialize(target=modules)
    def begin(self):
        return self.load_now("a", 0, True, False)

    def put_file(self, slot, kind):
        answer = next(self.written) % 2
        self.files[slot] = kind, answer
        if kind == "missing":
            with contextlib.suppress(FileNotFoundError):
                self.path(slot).unlink()
            return
        new = self.directory / "new"
        new.write_bytes(self.contents[kind, answer].replace(ANY_CASE, self.case.encode()))
        new.rename(self.path(slot))

    def at(self, name):
        found = [load for load in self.loads if load.name == name and load.at == "table"]
        return found[0] if found else None

    def users(self, load):
        return [user for user in self.loads if load in user.uses]

    def references(self, load):
        entered = sum(held.depth for held in self.all_holds if held.load is load)
        return load.taken + entered + len(self.users(load))

    def reaches(self, start, end):
        return start is end or any(self.reaches(used, end) for used in start.uses)

    def end(self, load):
        self.expected.append(("going", load.name))
        self.forget(load)

    def forget(self, load):
        load.uses, load.at, load.state = [], "gone", "going"
        self.last = load.name, False

    def reap(self):
        reaped = 0
        while left := [zombie for zombie in self.zombies if not self.references(zombie[0])]:
            load, told = left[0]
            self.zombies.remove(left[0])
            if told:
                self.forget(load)
            else:
                self.end(load)
            reaped += 1
        return reaped

    def leave_to_holders(self, load, told):
        """Told: its exit function was run."""
        load.at, load.state = "zombie", "going"
        self.zombies.append((load, told))
        self.last = load.name, True

    def bring_up(self, name, slot, mode):
        """A new load, or what it fails with."""
        kind, answer = self.files[slot]
        load = Load(name, kind, answer, str(self.path(slot)), mode)
        if kind == "user":
            providers = [p for p in self.loads if p.kind == "provider" and p.at != "gone"]
            # The linker binds it to the oldest.
            if not providers or providers[0].state != "live":
                return refused(errno.ENOENT)
            load.uses.append(providers[0])
        self.expected.append(("coming", name))
        if self.raising is not None:
            self.expected.append(("going", name))
            number = self.raising.errno if isinstance(self.raising, OSError) else None
            return refused(number or errno.ECANCELED, self.raising)
        if kind == "failing":
            self.expected.append(("going", name))
            return refused(errno.EIO)
        self.expected.append(("live", name))
        return load

    def adopt(self, load, module):
        load.module = module
        self.loads.append(load)
        self.handles[module] = load

    def check_free(self, name, force):
        load = self.at(name)
        if load is None:
            return refused(errno.ENOENT)
        if self.users(load):
            return refused(errno.EWOULDBLOCK)
        if load.state != "live" or (load.kind == "permanent" and not force):
            return refused(errno.EBUSY)
        return load

    def after_put(self):
        """What was waited for ends with its last reference."""
        if self.going is not None and not self.references(self.going):
            load, self.going = self.going, None
            self.tainted |= load.kind == "permanent"
            assert self.waited() is True
            self.end(load)

    # Files, and what else is around.

    @rule(slot=slots, kind=st.sampled_from(sorted(KINDS)))
    def write(self, slot, kind):
        self.put_file(slot, kind)

    @rule(
        raising=st.sampled_from([None, None, PermissionError(errno.EPERM, "no"), ValueError("no")]),
        cpu=st.integers(0, 3),
    )
    def aside(self, raising, cpu):
        self.raising = raising
        self.run_on(cpu)
        reaped = self.reap()
        if any(load.at != "gone" for load in self.loads):
            check(refused(errno.EBUSY), self.host.close)
        else:
            # To close it would succeed.
            check(reaped, self.host.reap)

    # Coming and going.

    @rule(target=modules, name=names, slot=slots, per_cpu=st.booleans(), beside=st.booleans())
    def load(self, name, slot, per_cpu, beside):
        return self.load_now(name, slot, per_cpu, beside)

    # Twice as likely.
    load_another = load

    def load_now(self, name, slot, per_cpu, beside):
        self.reap()
        there = self.at(name)
        kind = self.files[slot][0]
        if kind in BROKEN:
            expected = refused(BROKEN[kind])
        elif there is not None:
            expected = refused(errno.EEXIST if there.state == "live" else errno.EBUSY)
        else:
            mode = "percpu" if per_cpu and PER_CPU else "atomic"
            expected = self.bring_up(name, slot, mode)

        def call():
            return self.host.load(self.path(slot), name, per_cpu=per_cpu)

        if isinstance(expected, Raises):
            check(expected, lambda: self.there(beside, call))
            return multiple()
        module = self.there(beside, call)
        self.adopt(expected, module)
        return module

    @rule(name=names, force=st.booleans(), timeout=short, beside=st.booleans())
    def unload(self, name, force, timeout, beside):
        self.reap()
        load = expected = self.check_free(name, force)
        if isinstance(load, Load):
            held = self.references(load)
            if held and not force:
                expected = refused(errno.ETIMEDOUT if timeout else errno.EWOULDBLOCK)
            else:
                self.tainted |= bool(held) or load.kind == "permanent"
                expected = not held
                if held:
                    self.expected.append(("going", name))
                    self.leave_to_holders(load, True)
                else:
                    self.end(load)
        check(expected, lambda: self.there(beside, lambda: self.host.unload(name, force, timeout)))

    def to_wait_for(self, force=False):
        """Those whose unload would wait, if nobody waits yet."""
        if self.waiting is not None:
            return []
        free = [self.check_free(name, force) for name in "abc"]
        return [load for load in free if isinstance(load, Load) and self.references(load)]

    @precondition(to_wait_for)
    @rule(which=st.integers(0, 2), force=st.booleans())
    def unload_and_wait(self, which, force):
        loads = self.to_wait_for(force)
        load = loads[which % len(loads)]
        self.reap()
        load.state, self.going = "going", load
        self.wait(
            lambda: self.host.unload(load.name, force, None), lambda: self.is_shut(load.module)
        )

    def is_shut(self, module):
        if module.try_get():
            module.put()
            return False
        return True

    def replacement(self, name, slot):
        """The load that is replaced, and what comes in its place, or what is raised."""
        self.reap()
        old = self.check_free(name, False)
        if isinstance(old, Raises):
            return None, old
        kind = self.files[slot][0]
        if kind in BROKEN:
            return None, refused(BROKEN[kind])
        new = self.bring_up(name, slot, old.mode)
        if isinstance(new, Load) and old in new.uses:
            # It is bound to what it was to replace.
            assert self.expected.pop() == ("live", name)
            self.expected.append(("going", name))
            new = refused(errno.EWOULDBLOCK)
        return old, new

    @rule(name=names, slot=slots, timeout=short, beside=st.booleans())
    def replace(self, name, slot, timeout, beside):
        def call():
            return self.there(
                beside, lambda: self.host.replace(name, self.path(slot), timeout=timeout)
            )

        old, new = self.replacement(name, slot)
        if isinstance(new, Raises):
            check(new, call)
            return
        held = self.references(old)
        if held:
            self.leave_to_holders(old, False)
        else:
            self.end(old)
        check(not held, call)
        self.adopt(new, self.host.find(name))

    @precondition(to_wait_for)
    @rule(which=st.integers(0, 2), slot=slots)
    def replace_and_wait(self, which, slot):
        loads = self.to_wait_for()
        name = loads[which % len(loads)].name
        old, new = self.replacement(name, slot)

        def call():
            return self.host.replace(name, self.path(slot), None)

        if isinstance(new, Raises):
            check(new, call)
            return
        old.at, old.state, self.going = "old", "going", old
        self.wait(call, lambda: self.is_shut(old.module))
        self.adopt(new, self.host.find(name))

    @rule(beside=st.booleans())
    def reap_all(self, beside):
        check(self.reap(), lambda: self.there(beside, self.host.reap))

    # Modules, holds and pointers.

    @rule(target=modules, name=names)
    def find(self, name):
        found, load = self.host.find(name), self.at(name)
        if load is None:
            assert found is None
            return multiple()
        assert found == load.module and found is not load.module
        return found

    def load_of(self, module):
        return self.handles[module]

    @rule(module=modules, beside=st.booleans())
    def try_get(self, module, beside):
        load = self.load_of(module)
        assert self.there(beside, module.try_get) is (load.state == "live")
        load.taken += load.state == "live"

    @rule(module=modules, beside=st.booleans())
    def get(self, module, beside):
        load = self.load_of(module)
        expected = None if load.taken else MISUSE
        check(expected, lambda: self.there(beside, module.get))
        load.taken += expected is None

    @rule(module=modules, beside=st.booleans())
    def put(self, module, beside):
        load = self.load_of(module)
        expected = None if load.taken else MISUSE
        check(expected, lambda: self.there(beside, module.put))
        load.taken -= expected is None
        self.after_put()

    @rule(target=holds, module=modules)
    def hold(self, module):
        held = HeldModule(self.load_of(module), module.hold())
        self.all_holds.append(held)
        return held

    @rule(target=pointers, held=holds, beside=st.booleans())
    def enter(self, held, beside):
        return self.enter_now(held, beside)

    @precondition(lambda self: any(load.state == "live" for load in self.loads))
    @rule(target=pointers, which=st.integers(0, 2))
    def use(self, which):
        """What is live, because the bundles have more and more that is not."""
        live = [load for load in self.loads if load.state == "live"]
        return self.enter_now(self.hold(live[which % len(live)].module), False)

    def enter_now(self, held, beside):
        if held.load.state != "live":
            check(RELEASED, lambda: self.there(beside, held.hold.__enter__))
            return multiple()
        lib = self.there(beside, held.hold.__enter__)
        assert held.lib is None or held.lib is lib
        held.lib = lib
        held.depth += 1
        return held, lib["answer"]

    @rule(held=st.one_of(holds, pointers.map(lambda pointer: pointer[0])), beside=st.booleans())
    def leave(self, held, beside):
        expected = None if held.depth else MISUSE
        check(expected, lambda: self.there(beside, lambda: held.hold.__exit__(None, None, None)))
        held.depth -= expected is None
        self.after_put()

    leave_another = leave

    @precondition(lambda self: any(self.references(load) for load in self.loads))
    @rule(which=st.integers(0, 3))
    def let_go(self, which):
        """All that Python has of one load."""
        held = [load for load in self.loads if self.references(load)]
        load = held[which % len(held)]
        while load.taken:
            self.put(load.module, False)
        for hold in self.all_holds:
            while hold.load is load and hold.depth:
                self.leave(hold, False)

    @rule(pointer=pointers)
    def symbol(self, pointer):
        held, _ = pointer
        if held.depth:
            check(Raises(AttributeError), lambda: held.lib.no_such_symbol)
            assert held.lib.answer is held.lib.answer
        else:
            check(RELEASED, lambda: held.lib["answer"])
            check(RELEASED, lambda: held.lib.no_such_symbol)

    @rule(pointer=pointers, beside=st.booleans())
    def call(self, pointer, beside):
        held, function = pointer
        expected = held.load.answer if held.depth else RELEASED
        check(expected, lambda: self.there(beside, function))

    @rule(user=modules, provider=modules)
    def depend(self, user, provider):
        a, b = self.load_of(user), self.load_of(provider)
        expected = None
        if a.state == "going":
            expected = refused(errno.ENOENT)
        elif b in a.uses:
            pass
        elif self.reaches(b, a):
            expected = refused(errno.EDEADLK)
        elif b.state == "going":
            expected = refused(errno.ENOENT)
        else:
            a.uses.append(b)
        check(expected, lambda: self.host.add_dependency(user, provider))

    # What has to hold.

    @invariant()
    def as_the_model(self):
        table = [load for load in reversed(self.loads) if load.at == "table"]
        modules = self.host.modules()
        assert modules == [load.module for load in table]
        lines = [line.split() for line in self.host.list().splitlines()]
        assert [line[0] for line in lines] == [load.name for load in table]
        assert [int(line[2]) for line in lines] == [self.references(load) for load in table]
        for load in self.loads:
            module = load.module
            gone = load.at == "gone"
            refcount = -1 if gone else self.references(load)
            assert (module.name, module.path, module.mode) == (load.name, load.path, load.mode)
            assert (module.state, module.refcount) == (load.state, refcount)
        assert self.host.tainted is self.tainted
        last = self.host.last_unloaded
        assert (last and (last.name, last.resident)) == self.last
        assert self.events == self.expected
        assert repr(self.host) == f"<module_ref.Host with {len(table)} modules>"

    def finish(self):
        for held in self.all_holds:
            for _ in range(held.depth):
                held.hold.__exit__(None, None, None)
        for load in self.loads:
            for _ in range(load.taken):
                load.module.put()
        if self.waiting is not None:
            assert self.waited() is True
        for _, name in itertools.product(self.loads, "abc"):
            with contextlib.suppress(OSError):
                self.host.unload(name, force=True)
        self.host.close()
        check(Raises(ValueError), self.host.modules)
        for load in self.loads:
            assert load.module.try_get() is False
        assert self.case not in pathlib.Path("/proc/self/maps").read_text(), "left in memory"
        shutil.rmtree(self.directory)


PER_CPU = mr.ModuleRef(per_cpu=True).mode == "percpu"


def test_host(contents, tmp_path):
    run_state_machine_as_test(lambda: TheHost(contents, tmp_path), settings=SETTINGS)
