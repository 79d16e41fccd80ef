"""Replacements that hand over state, sets, and waiting for their outcome."""

import errno

import module_ref as mr
import pytest
from support import Rung, alarm, refused, threads, wait_until

SAVES = """
#include <stdint.h>
#include <stdlib.h>
struct module_saved { uint32_t version, reserved; void *data; size_t size; };
static long count;
int init_module(void) { count = 0; return 0; }
void cleanup_module(void) { }
/* Threads call it at the same time: ctypes lets others run. */
long add(void) { return __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST); }
long generation(void) { return GENERATION; }
int save_module(struct module_saved *out)
{
    long *data = malloc(sizeof(*data));
    *data = count;
    *out = (struct module_saved){ .data = data, .size = sizeof(*data) };
    return 0;
}
int restore_module(const struct module_saved *in)
{
    count = *(long *)in->data;
    return REFUSES;
}
"""


@pytest.fixture(scope="session")
def versions(build):
    return [
        build("v1/saves", SAVES, "-DGENERATION=1", "-DREFUSES=0"),
        build("v2/saves", SAVES, "-DGENERATION=2", "-DREFUSES=0"),
        build("v3/saves", SAVES, "-DGENERATION=3", "-DREFUSES=-5"),
    ]


def ask(host, name="saves"):
    """The generation, and one more."""
    with host.find_wait(name, 20).hold() as lib:
        return lib.generation(), lib.add()


class TestStopFirst:
    def test_the_new_one_goes_on(self, host, versions):
        host.load(versions[0])
        assert ask(host) == (1, 1)
        assert host.replace("saves", versions[1], 1.0, stop_first=True) is True
        assert ask(host) == (2, 2)
        assert host.replace("saves", versions[0]) is True
        assert ask(host) == (1, 1), "nothing is handed over where both are in service"
        host.unload("saves")

    def test_the_old_one_serves_on(self, host, versions):
        old = host.load(versions[0])
        ask(host)
        with refused(errno.EIO, match="its restore_module returned -5"):
            host.replace("saves", versions[2], 1.0, stop_first=True)
        assert old.state == "live"
        assert ask(host) == (1, 2)
        with old.hold(), refused(errno.ETIMEDOUT, TimeoutError):
            host.replace("saves", versions[1], stop_first=True)
        assert ask(host) == (1, 3)
        host.unload("saves")

    def test_under_load(self, host, versions):
        host.load(versions[0])
        over, added = [], []

        def work():
            n = 0
            while not over:
                try:
                    with host.find_wait("saves", 20).hold() as lib:
                        lib.add()
                        n += 1
                except mr.Released:
                    continue  # it was stopped in between
            added.append(n)

        with threads(work, work, work, work):
            for n in range(50):
                host.replace("saves", versions[(n + 1) % 2], 20.0, stop_first=True)
            over.append(True)
        assert ask(host) == (1, sum(added) + 1)
        host.unload("saves")

    def test_a_signal_ends_the_wait(self, host, versions):
        old = host.load(versions[0])
        with old.hold(), alarm(), pytest.raises(Rung):
            host.replace("saves", versions[1], None, stop_first=True)
        assert (old.state, ask(host)) == ("live", (1, 1))
        host.unload("saves")


class TestSets:
    def test_all_or_nothing(self, host, versions):
        for name in "ab":
            host.load(versions[0], name)
        with refused(errno.ENOENT, FileNotFoundError):
            host.replace_set({"a": versions[1], "b": "./no/such.so"})
        with refused(errno.EIO):
            host.replace_set({"a": versions[1], "b": versions[2]}, 1.0, stop_first=True)
        assert [ask(host, name) for name in "ab"] == [(1, 1), (1, 1)]
        assert host.replace_set({"a": versions[1], "b": versions[1]}, 1.0, stop_first=True) is True
        assert [ask(host, name) for name in "ab"] == [(2, 2), (2, 2)]
        with host.find("a").hold():
            assert host.replace_set({"a": versions[0], "b": versions[0]}) is False
        assert [ask(host, name) for name in "ab"] == [(1, 1), (1, 1)]
        with refused(errno.EINVAL):
            host.replace_set({})
        assert host.shutdown(1.0) == 0


class TestFindWait:
    def test_nothing_to_wait_for(self, host, versions):
        assert host.find_wait("saves") is None
        module = host.load(versions[0])
        assert host.find_wait("saves", 0) == module
        host.unload("saves")

    def test_others_run_and_signals_are_handled(self, host, versions):
        module, found = host.load(versions[0]), []
        held = module.hold()
        held.__enter__()

        def replace():
            host.replace("saves", versions[1], None, stop_first=True)

        def find():
            wait_until(lambda: module.state == "going")
            found.append(host.find_wait("saves"))

        with threads(replace, find):
            wait_until(lambda: module.state == "going")
            with refused(errno.ETIMEDOUT, TimeoutError):
                host.find_wait("saves", 0.1)
            with alarm(), pytest.raises(Rung):
                host.find_wait("saves")
            held.__exit__()
        assert found == host.modules()
        host.unload("saves")

    def test_in_a_callback(self, host, versions):
        @host.on_event
        def waits(event, module):
            if event == "coming":
                host.find_wait(module.name)

        with refused(errno.EDEADLK):
            host.load(versions[0])
        host.remove_event(waits)
