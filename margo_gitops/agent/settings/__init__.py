"""What the device is told to do: the configuration file, the environment, and the files that they name."""
