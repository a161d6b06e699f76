"""Networks: modules only, no losses, optimisers or devices."""
