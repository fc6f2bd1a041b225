"""What a cluster's head runs when it is asked from outside."""
