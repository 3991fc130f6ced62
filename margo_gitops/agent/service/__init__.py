"""The agent as a service: when it polls, how it waits, signals, and systemd."""
