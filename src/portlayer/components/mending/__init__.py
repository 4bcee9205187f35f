"""What the reconciler mends, a kind a room."""
