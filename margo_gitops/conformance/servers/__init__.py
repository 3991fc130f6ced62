"""The checks that a server is put through: raw requests, and what must come back."""
