"""The server of the review page, on aiohttp: who may ask, what it answers, where marks go."""
