"""A bundle that a person carried: its files, read within bounds (`files.py`), and the transport that reads it."""
