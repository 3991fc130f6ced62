"""A server on the loopback that plays a git host and a Margo server, sound and hostile, and notes what it is asked."""
