"""Builds the plugin and gives each test a load of its own."""

import ctypes
import pathlib
import shutil
import subprocess

import module_ref
import pytest

SOURCE = pathlib.Path(__file__).with_name("stack.c")


def compiled(folder: pathlib.Path, *options: str) -> pathlib.Path:
    """The plugin, compiled with these options; a failure shows what the compiler says."""
    cc = shutil.which("cc")
    if cc is None:
        pytest.skip("there is no C compiler: apt-get install gcc")
    plugin = folder / "stack.so"
    argv = [cc, "-Wall", "-Werror", "-g", "-shared", "-fPIC", *options, "-o", plugin, SOURCE]
    subprocess.run(argv, check=True)
    return plugin


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The first version, compiled once."""
    return compiled(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="session")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The version with the bug fixed."""
    return compiled(tmp_path_factory.mktemp("fixed"), "-DFIXED")


def is_mapped(plugin: pathlib.Path) -> bool:
    """Whether any part of the file is in this process's memory."""
    return str(plugin) in pathlib.Path("/proc/self/maps").read_text()


@pytest.fixture
def host() -> "module_ref.Host":
    """A host for one test, which has to leave it empty, or with what can be unloaded."""
    host = module_ref.Host()
    yield host
    for module in host.modules():
        host.unload(module.name, timeout=5.0)


@pytest.fixture
def stack(host: "module_ref.Host", first: pathlib.Path) -> "module_ref.Module":
    """The plugin, freshly loaded. After the test it is unloaded and gone from memory: a test
    that leaks a reference, or a plugin that cannot be unmapped, fails here."""
    module = host.load(first, name="stack")
    yield module
    assert host.unload("stack", timeout=5.0), host.last_unloaded
    assert not is_mapped(first)


def typed(library: "module_ref.HeldLibrary") -> "module_ref.HeldLibrary":
    """ctypes takes everything for an int unless it is told."""
    library.push.argtypes = [ctypes.c_long]
    library.pop.restype = ctypes.c_long
    library.depth.restype = ctypes.c_size_t
    return library
