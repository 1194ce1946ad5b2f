"""Loading a model, its weight files, and LoRA files and switching."""
