"""What the device must do: the configuration file, the environment, and the files that they name."""
