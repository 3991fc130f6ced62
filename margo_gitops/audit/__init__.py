"""The audit: what ran where, who asked for it, and the proof that nobody else wrote it."""
