from .packed import BadImage, PackedImages
from .packing import pack
from .spec import DataSpec

__all__ = ["BadImage", "DataSpec", "PackedImages", "pack"]
