"""The older contract (G1) on the device: onboarding, signed requests, reports in older shapes."""
