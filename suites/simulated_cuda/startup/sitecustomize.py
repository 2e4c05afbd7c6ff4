"""Python imports this at its start: operators are computed from the moment at which torch is imported.

A process that never imports torch pays for one entry in `sys.meta_path`. No device is touched.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).parent


class _After(importlib.abc.Loader):
    """Loads a module as its own loader does, and then does something."""

    def __init__(self, loader, then):
        self._loader = loader
        self._then = then

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._then()


class _Watcher(importlib.abc.MetaPathFinder):
    """Finds modules as others do, and wraps the loaders of some."""

    def __init__(self, actions):
        self._actions = actions
        self._asked = set()

    def find_spec(self, name, path=None, target=None):
        """Many only ask where a module is: each answer has the wrapped loader."""
        if name not in self._actions or name in self._asked:
            return None
        self._asked.add(name)  # the search below comes here as well
        try:
            found = importlib.util.find_spec(name)
        finally:
            self._asked.remove(name)
        if found is not None and found.loader is not None:
            found.loader = _After(found.loader, self._actions[name])
        return found


def _compute():
    _package("compute").install()


def _compute_bitsandbytes():
    _package("bitsandbytes_operators").install()


def _compute_compiled():
    _package("compiled").install()


def _package(name):
    """Import a module of this package under a name of its own: the command may bring another `suites`."""
    if "simulated_cuda" not in sys.modules:
        folder = HERE.parent
        places = [str(folder)]
        spec = importlib.util.spec_from_file_location(
            "simulated_cuda", folder / "__init__.py", submodule_search_locations=places
        )
        sys.modules["simulated_cuda"] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"simulated_cuda.{name}")


def _chain():
    """Run the sitecustomize that this one hides."""
    others = [path for path in sys.path if Path(path or ".").resolve() != HERE.resolve()]
    found = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if found is not None and found.loader is not None:
        found.loader.exec_module(importlib.util.module_from_spec(found))


_chain()
ACTIONS = {
    "torch": _compute,
    "torch._inductor.config": _compute_compiled,
    "bitsandbytes": _compute_bitsandbytes,
}
"""What is done once a module is imported."""
sys.meta_path.insert(0, _Watcher(ACTIONS))
