"""sri_pyro."""
