"""Who holds it, from Python: records of references, and what a refused unload says of them."""

import os
import subprocess
import threading

import module_ref as mr
import pytest


@pytest.fixture(params=[False, True], ids=["atomic", "per_cpu"])
def ref(request):
    return mr.ModuleRef(per_cpu=request.param)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "held.c").write_text("int answer(void) { return 42; }\n")
    command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-o", "held.so", "held.c"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "held.so"


class TestCounter:
    def test_off_nobody_is_named(self, ref):
        assert ref.try_get()
        assert ref.holders() == []
        ref.put()

    def test_thread_and_age(self, ref):
        mode = ref.mode
        ref.record_holders()
        assert ref.mode == mode
        with ref.hold():
            (holder,) = ref.holders()
            assert holder.thread == threading.get_native_id()
            assert 0 <= holder.age < 60
            assert (holder.caller, holder.symbol, holder.object, holder.offset) == (None,) * 4
            assert not holder.ended
            (again,) = ref.holders()
            assert again.age >= holder.age
        assert ref.holders() == []

    def test_str_and_repr(self, ref):
        ref.record_holders(on=True)
        assert ref.try_get()
        (holder,) = ref.holders()
        who = f" (thread '{holder.thread_name}', {holder.thread}) for "
        assert who in str(holder)
        assert repr(holder) == f"<module_ref.Holder {holder}>"
        ref.put()

    def test_frozen(self, ref):
        ref.record_holders()
        with ref.hold():
            (holder,) = ref.holders()
            with pytest.raises(AttributeError):
                holder.age = 0.0

    def test_a_thread_that_has_ended_with_a_reference(self, ref):
        ref.record_holders()
        tid = []

        def leak():
            tid.append(threading.get_native_id())
            assert ref.try_get()

        thread = threading.Thread(target=leak)
        thread.start()
        thread.join()
        # The system may take a moment longer over its end.
        while not ref.holders()[0].ended:
            pass
        (holder,) = ref.holders()
        assert (holder.thread, holder.thread_name) == (tid[0], None)
        assert f" (thread {tid[0]}, which has ended) for " in str(holder)
        assert ref.try_release() is False
        ref.put()
        assert ref.holders() == []

    def test_the_oldest_first(self, ref):
        ref.record_holders()
        for _ in range(3):
            assert ref.try_get()
        ages = [holder.age for holder in ref.holders()]
        assert ages == sorted(ages, reverse=True)
        for _ in range(3):
            ref.put()

    def test_across_a_reinit_and_off(self, ref):
        ref.record_holders()
        assert ref.try_release()
        assert ref.try_get() is False
        ref.reinit()
        with ref.hold():
            assert len(ref.holders()) == 1
            ref.record_holders(on=False)
            assert ref.holders() == []
        assert ref.count == 0
        assert ref.try_release()


class TestModule:
    def test_an_unload_that_is_refused_says_who(self, plugin):
        with mr.Host() as host:
            module = host.load(plugin)
            with module.hold(), pytest.raises(BlockingIOError, match="module_record_holders"):
                host.unload("held")
            module.record_holders()
            with module.hold():
                (holder,) = module.holders()
                assert holder.thread == threading.get_native_id()
                who = rf"1 reference, held by .*\(thread '.*', {holder.thread}\) for "
                with pytest.raises(BlockingIOError, match=who) as refused:
                    host.unload("held")
                assert "module_record_holders" not in str(refused.value)
                with pytest.raises(TimeoutError, match="time was up, held by .* for "):
                    host.unload("held", timeout=0.001)
            assert module.holders() == []
            module.record_holders(on=False)
            assert host.unload("held") is True
            assert module.holders() == []
