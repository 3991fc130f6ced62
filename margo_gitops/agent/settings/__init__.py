"""What the device shall do: the configuration file, the environment, and the files that they name."""
