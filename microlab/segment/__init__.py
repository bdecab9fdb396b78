"""From a micrograph to boundaries, grains and constituents."""
