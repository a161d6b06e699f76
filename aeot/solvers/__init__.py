"""From source, sites and masses to certified heights."""
