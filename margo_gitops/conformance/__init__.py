"""Check what others built: servers and agents, against the numbered requirements in the documentation."""
