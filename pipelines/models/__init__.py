"""Find models and LoRAs, and copy remote ones to this machine."""
