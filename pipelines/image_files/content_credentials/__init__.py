"""C2PA content credentials: signed statements inside image files, and how they are checked.

Equal files, statements and keys give equal credentials. Reference: Content Credentials, C2PA
Technical Specification 2.2, spec.c2pa.org.
"""

from importlib.util import find_spec

from nightpress.pipelines.errors import SpecError

PACKAGES = ("cbor2", "cryptography")


def can_check() -> bool:
    """Whether the packages are installed that sign and check credentials."""
    return all(find_spec(name) is not None for name in PACKAGES)


def require_packages() -> None:
    """Raise if credentials cannot be signed or checked here.

    Raises:
        SpecError: a package is missing.
    """
    if not can_check():
        raise SpecError(
            "content credentials need cbor2 and cryptography; install them with: "
            "pip install 'nightpress[sign]'"
        )
