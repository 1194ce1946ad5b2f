"""Training data: images and captions from any source, as one checked local copy.

`pack` reads tars, Parquet files and folders once; training reads from `PackedImages`. The
exports are imported on first use, so that checking a job file does not load the image libraries.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
