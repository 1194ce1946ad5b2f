"""Training data: captioned images from any store, as one checked copy on this machine.

`pack` reads tars, Parquet files or image folders once; training reads from the `PackedImages`
that it returns. The readers are imported when they are first used: checking a job file does not
need them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
