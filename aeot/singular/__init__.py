"""Where the transport map jumps: facets, modes, singular sets, curves and surfaces."""
