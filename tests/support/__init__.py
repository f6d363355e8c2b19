"""The test ground: real servers, real workloads and the oracles that judge them."""
