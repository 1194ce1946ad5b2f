"""Reads what made images, from files of A1111, ComfyUI and nightpress, into manifests."""
