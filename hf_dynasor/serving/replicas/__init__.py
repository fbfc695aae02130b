"""Several servers behind one address, as a Ray Serve application: each program stays on one of them."""
