"""One training loop for all networks; the device and the profile it runs on."""
