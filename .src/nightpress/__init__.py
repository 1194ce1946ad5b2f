"""nightpress: a prompt manifest in, a finished, verified, documented image set out.

::

    from nightpress import RunSpec, open_run, run

    result = run(RunSpec.from_file("campaign.yaml"))
    images = open_run(result.url)
    images.image("00000041_00").show()

What is exported here is the documented way in; `__init__.pyi` lists it with its types. Nothing
heavy is imported until it is asked for.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
