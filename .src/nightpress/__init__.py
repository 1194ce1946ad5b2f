"""nightpress: a prompt manifest in, a finished, verified, documented image set out.

::

    from nightpress import RunSpec, open_run, plan, run

    spec = RunSpec.from_file("campaign.yaml")
    print(plan(spec).num_images)
    result = run(spec)
    open_run(result.url).image("00000041_00").show()

    spec = RunSpec.from_dict({"name": "evening", "output": "runs", "model": "builtin"})
    run(spec, manifest=frame)  # the rows of a pyarrow, pandas or polars table

These exports are the public API; `__init__.pyi` lists them with their types. Nothing heavy is
imported before it is used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
