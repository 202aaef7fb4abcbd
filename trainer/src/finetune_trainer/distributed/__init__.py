"""Several processes that train together: rank, rendezvous, collectives and sharding."""
