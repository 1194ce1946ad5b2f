"""Models in one file, in the layout of their makers: LDM, OpenCLIP, ComfyUI."""
