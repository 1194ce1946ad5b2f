"""Files for schedulers: what `nightpress schedule` prints."""
