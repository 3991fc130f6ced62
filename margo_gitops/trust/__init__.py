"""What a device believes: signatures, versions, digests, purely."""
