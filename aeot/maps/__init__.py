"""The Brenier map of given heights in any dimension: cells, potential, extension, new codes."""
