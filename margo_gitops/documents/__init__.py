"""Margo documents and our own as typed, immutable values with exact bytes."""
