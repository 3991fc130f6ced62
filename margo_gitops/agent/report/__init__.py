"""What the device tells others: its server (Margo capabilities and status) and the person at `agent status`."""
