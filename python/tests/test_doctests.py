"""The examples of the documentation: everything public has one, and each gives what it says.

They run in a folder with what they name: ./plugin.so and ./plugin-v2.so.
"""

import doctest
import inspect
import io
import pydoc
import re
import shutil

import module_ref
import pytest
from module_ref import stress

PLUGIN = """
int count = 7;
int answer(void) { return ANSWER; }
double half(double x) { return x / 2; }
"""

MODULES = [module_ref, stress]


def public():
    """What a user can name: modules, classes, functions, methods; each as (name, object, globals)."""
    for module in MODULES:
        where = vars(module).copy()
        short = module.__name__.rpartition(".")[2]
        yield short, module, where
        for name in module.__all__:
            thing = getattr(module, name)
            if not (inspect.isclass(thing) or callable(thing)):
                continue
            # What is written beside a class of module_ref may use what is written beside it.
            home = {**vars(inspect.getmodule(thing) or module), **where}
            yield f"{short}.{name}", thing, home
            if inspect.isclass(thing):
                for attribute, member in vars(thing).items():
                    if not attribute.startswith("_"):
                        yield f"{short}.{name}.{attribute}", member, home


NAMED = {name: (thing, where) for name, thing, where in public()}


def text_of(thing):
    return inspect.getdoc(thing) or ""


def is_attribute(thing):
    return inspect.isdatadescriptor(thing) or not callable(thing)


def examples(name):
    thing, where = NAMED[name]
    return doctest.DocTestParser().get_doctest(text_of(thing), where.copy(), name, None, None)


@pytest.mark.parametrize("name", [name for name in NAMED if examples(name).examples])
def test_example(name, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    if "./plugin.so" in text_of(NAMED[name][0]):
        build = request.getfixturevalue("build")
        shutil.copy(build("v1/plugin", PLUGIN, "-DANSWER=42"), "plugin.so")
        shutil.copy(build("v2/plugin", PLUGIN, "-DANSWER=43"), "plugin-v2.so")
    said = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(examples(name), out=said.write)
    assert runner.failures == 0, said.getvalue()


def test_everything_public_is_documented():
    assert [name for name, (thing, _) in NAMED.items() if not text_of(thing)] == []


def test_everything_public_has_an_example():
    without = [
        name
        for name, (thing, _) in NAMED.items()
        if not examples(name).examples
        and not is_attribute(thing)
        # These are for __main__.
        and not name.endswith(".add_command")
    ]
    assert without == []


def test_what_help_shows():
    shown = pydoc.plain(pydoc.render_doc(module_ref.Host.unload))
    assert re.search(r"^unload\(self,( /,)? name, force=False, timeout=0\.0\)", shown, re.M)
    for part in ("BlockingIOError", "TimeoutError", "FileNotFoundError", ">>> host.unload("):
        assert part in shown
    assert max(map(len, shown.splitlines())) <= 100
