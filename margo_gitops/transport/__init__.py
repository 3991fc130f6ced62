"""Ways to fetch a snapshot of a device's desired state."""
