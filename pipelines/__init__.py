"""The data flow: manifest, plan, shard, batch, encode, store, commit, report; and training.

All of it can run in one process, without a cluster. `__init__.pyi` lists the exports and their
types.

::

    from nightpress import open_run

    run = open_run("s3://press/runs/campaign")
    run.metadata.to_table(columns=["image_id", "prompt", "seed"])
    run.image("00000041_00")
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
