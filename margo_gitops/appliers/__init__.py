"""What makes a deployment run: one applier per engine."""
