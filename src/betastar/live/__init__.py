"""A running experiment seen from outside: its status file, what its logs hold so far, and trackers that follow it."""
