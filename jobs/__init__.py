"""Running jobs on a Ray cluster, from the command line or from Python.

`__init__.pyi` lists the exports with their types. Ray and torch are imported when an export that
needs them is first used, so the command line responds at once.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
