"""Loading models and LoRAs, checking their files, and switching between LoRAs."""
