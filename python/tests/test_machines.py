"""What the package itself keeps account of, against models, under steps that hypothesis chooses.

That is whose reference a put gives back, how deep a hold is entered, what a function may still be
called for, what a closed host says, and from which thread. What the counter and the host answer is
for their own model to check: here are one counter, and two modules that nothing depends on.

MODULE_REF_PROFILE=long tries fifty times as much; unshrunk shows the first failure as it is.
"""

import concurrent.futures
import errno
import os

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
PHASES = [Phase.generate, Phase.shrink]
SETTINGS = settings(
    max_examples=4000 if PROFILE == "long" else 80,
    stateful_step_count=50,
    phases={"short": PHASES, "long": PHASES, "unshrunk": PHASES[:1]}[PROFILE],
    # Other processes may have the CPU.
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

here = st.booleans()


class Machine(RuleBasedStateMachine):
    """With a thread beside, which may do a step."""

    def __init__(self):
        super().__init__()
        self.beside = concurrent.futures.ThreadPoolExecutor(1)

    def check(self, here, expected, call, number=None):
        """Calls here or beside, and compares what it gives or raises."""

        def there():
            return call() if here else self.beside.submit(call).result(10)

        if isinstance(expected, type):
            with pytest.raises(expected) as raised:
                there()
            assert type(raised.value) is expected
            assert number is None or raised.value.errno == number
        else:
            assert there() is expected

    def leave(self, here, hold, deep, put, exception):
        """Leaves a hold that is entered so deep; put, which takes one in the model, may fail."""
        expected = None if deep and put() else mr.MisuseError
        how = (KeyError, KeyError(), None) if exception else (None, None, None)
        self.check(here, expected, lambda: hold.__exit__(*how))
        return max(deep - 1, 0)

    def teardown(self):
        self.finish()
        self.beside.shutdown(wait=False)


class Counter(Machine):
    """The references of a counter are anonymous: any put gives any of them back."""

    holds = Bundle("holds")

    @initialize(per_cpu=st.booleans())
    def begin(self, per_cpu):
        self.ref = mr.ModuleRef(per_cpu=per_cpu)
        self.live, self.held, self.depth = True, 0, {}

    def put_one(self):
        """In the model; whether there was one."""
        self.held -= 1
        if self.held < 0:
            self.held = 0
            return False
        return True

    @rule(how=st.sampled_from(["try_get", "get_if_held", "get", "put", "put"]), here=here)
    def refer(self, how, here):
        if how == "put":
            expected = None if self.put_one() else mr.MisuseError
        else:
            self.held += self.live
            expected = self.live if how != "get" else None if self.live else mr.MisuseError
        self.check(here, expected, getattr(self.ref, how))

    @rule(target=holds)
    def hold(self):
        hold = self.ref.hold()
        self.depth[hold] = 0
        return hold

    @rule(hold=holds, here=here)
    def enter(self, hold, here):
        self.check(here, self.ref if self.live else mr.Released, hold.__enter__)
        self.held += self.live
        self.depth[hold] += self.live

    @rule(hold=holds, here=here, exception=st.booleans())
    def leave_hold(self, hold, here, exception):
        self.depth[hold] = self.leave(here, hold, self.depth[hold], self.put_one, exception)

    @rule(here=here, timeout=st.sampled_from([None, 0, 0.0005]))
    def release(self, here, timeout):
        def call():
            return self.ref.try_release() if timeout is None else self.ref.drain(timeout)

        self.check(here, not self.held if self.live else BlockingIOError, call, errno.EALREADY)
        self.live = self.live and self.held > 0

    @rule(here=here)
    def reinit(self, here):
        self.check(here, OSError if self.live else None, self.ref.reinit, errno.EBUSY)
        self.live = True

    @invariant()
    def as_the_model(self):
        count = self.held if self.live else -1
        assert (self.ref.count, self.ref.released) == (count, not self.live)

    def finish(self):
        while self.held:
            self.refer("put", True)
        assert not self.live or self.ref.try_release() is True, "something is left over"


def test_counter():
    run_state_machine_as_test(Counter, settings=SETTINGS)


# ---- the host --------------------------------------------------------------------


class Load:
    """One load: what Python holds of it, by gets and by holds that are entered."""

    def __init__(self, module, name, answer):
        self.module, self.name, self.answer = module, name, answer
        self.live, self.taken, self.entered = True, 0, 0

    def references(self):
        return self.taken + self.entered

    def leave(self):
        self.entered -= 1
        return True


class TheHost(Machine):
    """A module's put gives back what was taken through a module object, and of that load alone."""

    modules = Bundle("modules")
    holds = Bundle("holds")
    functions = Bundle("functions")

    def __init__(self, plugins):
        super().__init__()
        self.plugins, self.host, self.closed = plugins, mr.Host(), False
        self.loads, self.depth = {}, {}

    def at(self, name):
        return next((load for load in self.loads.values() if load.live and load.name == name), None)

    def adopt(self, name, answer, module):
        self.loads[module] = Load(module, name, answer)
        return module

    @rule(target=modules, name=st.sampled_from("ab"), answer=st.sampled_from([0, 1]), here=here)
    def load(self, name, answer, here):
        def call():
            return self.host.load(self.plugins[name, answer], name)

        if self.closed or self.at(name):
            self.check(here, ValueError if self.closed else FileExistsError, call)
            return multiple()
        return self.adopt(name, answer, call() if here else self.beside.submit(call).result(10))

    @rule(name=st.sampled_from("ab"), here=here)
    def unload(self, name, here):
        load = self.at(name)
        expected = ValueError if self.closed else FileNotFoundError if load is None else True
        if expected is True and load.references():
            expected = BlockingIOError
        elif load and not self.closed:
            load.live = False
        self.check(here, expected, lambda: self.host.unload(name))

    @precondition(lambda self: self.at("a"))
    @rule(target=modules, here=here)
    def replace(self, here):
        old, path = self.at("a"), self.plugins["a", 1 - self.at("a").answer]
        self.check(here, not old.references(), lambda: self.host.replace("a", path))
        old.live = False
        return self.adopt("a", 1 - old.answer, self.host.find("a"))

    @rule(here=here, seldom=st.integers(0, 7))
    def close(self, here, seldom):
        busy = any(load.live or load.references() for load in self.loads.values())
        if busy:
            self.check(here, OSError, self.host.close, errno.EBUSY)
        elif seldom == 0:
            self.check(here, None, self.host.close)
            self.closed = True

    @rule(module=modules, how=st.sampled_from(["try_get", "get", "put"]), here=here)
    def refer(self, module, how, here):
        load = self.loads[module]
        expected = load.live if how == "try_get" else None if load.taken else mr.MisuseError
        self.check(here, expected, getattr(module, how))
        if expected in (True, None):
            load.taken += -1 if how == "put" else 1

    @rule(target=holds, module=modules)
    def hold(self, module):
        hold = module.hold()
        self.depth[hold] = 0
        return hold, self.loads[module]

    @rule(target=functions, held=holds)
    def enter(self, held):
        hold, load = held
        if not load.live:
            self.check(True, mr.Released, hold.__enter__)
            return multiple()
        function = hold.__enter__().answer
        load.entered += 1
        self.depth[hold] += 1
        return function, hold, load

    @rule(held=holds, here=here, exception=st.booleans())
    def leave_hold(self, held, here, exception):
        hold, load = held
        self.depth[hold] = self.leave(here, hold, self.depth[hold], load.leave, exception)

    @rule(function=functions, here=here)
    def call(self, function, here):
        function, hold, load = function
        self.check(here, load.answer if self.depth[hold] else mr.Released, function)

    @invariant()
    def as_the_model(self):
        for module, load in self.loads.items():
            held = load.references()
            assert module.state == ("live" if load.live else "going")
            # Whether what nobody holds any more has been reaped is the host's business.
            assert module.refcount in ((held,) if load.live or held else (0, -1))

    def finish(self):
        for hold, depth in self.depth.items():
            for _ in range(depth):
                hold.__exit__(None, None, None)
        for load in self.loads.values():
            for _ in range(load.taken):
                load.module.put()
        if not self.closed:
            for load in self.loads.values():
                assert not load.live or self.host.unload(load.name) is True
            self.host.close()
        assert not any(load.module.try_get() for load in self.loads.values())
        self.check(True, ValueError, self.host.modules)


def test_host(build):
    plugins = {
        (name, answer): build(f"{name}{answer}", f"int answer(void) {{ return {answer}; }}")
        for name in "ab"
        for answer in (0, 1)
    }
    run_state_machine_as_test(lambda: TheHost(plugins), settings=SETTINGS)
