"""The stages put together: what the command line, the chapters and the studies call."""
