"""Applications and fleets as files: reading, vendoring, pinning."""
