"""Finding models and LoRAs, and copying them to a node."""
