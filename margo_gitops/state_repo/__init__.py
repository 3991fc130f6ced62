"""The managed state repo: objects, signed commits, all-or-nothing updates."""
