"""Training data: pictures with captions from anywhere, as one checked local copy.

`pack` reads tars, Parquet files and folders once; training reads from `PackedImages`. What reads
pictures is imported when it is first used: a job file is checked without it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
