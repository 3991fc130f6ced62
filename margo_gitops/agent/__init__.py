"""The program on the device: observe, plan, apply, report."""
