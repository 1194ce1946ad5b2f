"""What runs on a cluster and what a person types: Ray actors, dispatch, the command line.

`__init__.pyi` lists what is exported, with its types. Ray and torch are imported when one of these
is first used, so the command line answers at once.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
