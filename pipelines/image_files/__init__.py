"""Image files: their names, bytes and embedded metadata, and packs of them."""
