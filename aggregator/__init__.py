"""What runs on the gateway: the pure core of pruning, contribution and restoration, and its shell."""
