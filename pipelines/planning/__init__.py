"""Planning: turn a manifest into a list of images, named, seeded, sorted and cut into shards.

`check` validates every row and `check_inputs` the pictures; neither writes anything. `write_plan`
writes the plan; `read_shard` reads one shard of it back. The work runs in one process, or wherever
the caller's `mapper` sends it.

Each export is imported when it is first used: the layout of a plan needs none of the modules
that read manifests. `__init__.pyi` lists them with their types.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
