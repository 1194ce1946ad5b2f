"""The exit codes of the command line."""

OK, UNEXPECTED, BAD_INPUT, SOME_FAILED, STOPPED, HELD = range(6)
