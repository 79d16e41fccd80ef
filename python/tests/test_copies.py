"""The extension and the C library in one process: two copies of the code on each other's counters."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from oracle import expected_mode

ROOT = Path(__file__).resolve().parent.parent.parent
LIBRARY = ROOT / "target/release/libmodule_ref.so"

# A plugin that counts its own users by the C library, whoever its host is.
PLUGIN = """
#include "module_ref_inline.h"
struct module *__this_module;
_Bool hold(void) { return module_try_get(__this_module); }
void let_go(void) { module_put(__this_module); }
long long held(void) { return module_refcount(__this_module); }
"""


@pytest.mark.parametrize("first", ["library", "extension"])
@pytest.mark.parametrize("per_cpu", [True, False])
def test_a_plugin_counts_by_the_c_library(build, first, per_cpu):
    if not LIBRARY.exists():
        pytest.skip("needs the C library: make build")
    folder = LIBRARY.parent
    flags = [f"-I{ROOT / 'include'}", f"-L{folder}", f"-Wl,-rpath,{folder}", "-lmodule_ref"]
    plugin = build("counts-by-c", PLUGIN, "-Wl,--no-as-needed", *flags)
    load = {
        "library": f"import ctypes; ctypes.CDLL({str(LIBRARY)!r}); from module_ref import Host",
        "extension": "from module_ref import Host",
    }
    program = f"""
        {load[first]}
        import ctypes
        host = Host()
        module = host.load({str(plugin)!r}, "plugin", per_cpu={per_cpu})
        c = ctypes.CDLL({str(plugin)!r})
        c.hold.restype, c.held.restype = ctypes.c_bool, ctypes.c_longlong
        assert c.hold() and c.hold() and module.refcount == c.held() == 2
        with module.hold():
            assert c.held() == 3
        try:
            host.unload("plugin")
        except BlockingIOError:
            c.let_go()
        assert module.refcount == c.held() == 1
        try:
            host.unload("plugin", timeout=0.01)
        except TimeoutError:
            c.let_go()
        assert module.refcount == c.held() == 0
        assert module.mode == {expected_mode() if per_cpu else "atomic"!r}
        host.unload("plugin")
        assert not c.hold() and c.held() == -1
    """
    program = textwrap.dedent(program)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
