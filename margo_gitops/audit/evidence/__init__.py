"""Evidence files: what a device ran, signed, for checkers who have neither repo (in-toto, DSSE)."""
